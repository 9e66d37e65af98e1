"""Rewards: answers that are right in another notation, answers that are not, and programs that try to cheat."""

import doctest
import sys
from pathlib import Path

import pytest

from groundup.artifacts.errors import UserError
from groundup.evaluate.code_sandbox import passes_tests
from groundup.finetune.reinforcement.rewards import (
    Problem,
    WeightedReward,
    check_pattern,
    exact_answer,
    final_answer,
    has_format,
    load_function,
    matches_pattern,
    short_enough,
    unit_tests,
)
from groundup.finetune.training_data.problems import problem_of

linux = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("so it is 5", "5", True),
        ("2 + 3 = 5.", "5", True),
        ("10-3=7", "7", True),
        ("1,250 dollars", "$1250", True),
        ("He pays 3 x 6 = 18.\n#### 18", "3 * 6 = 18\n#### 18", True),
        (r"\boxed{\frac{1}{2}}", r"\boxed{\frac{1}{2}}", True),
        ("**5**", "5", True),
        ("5.0", "5", True),
        ("1/2", "0.5", True),
        ("-3", "-3", True),
        ("Paris.", "paris", True),
        ("3", "-3", False),
        ("5 or 6", "5", False),
        ("#### 17\nno, 18", "18", False),
        ("London", "Paris", False),
        ("", "5", False),
        ("5", "", False),
        ("12345678901234567890123", "12345678901234567890124", False),
    ],
)
def test_exact_answer(text, answer, right):
    assert exact_answer(text, Problem((), answer)) == right


def test_final_answer_of_unbalanced_braces_is_the_text():
    assert final_answer(r"\boxed{1") == r"\boxed{1"


def test_patterns_and_length():
    problem = Problem(())
    assert matches_pattern("I think 5", problem, pattern=check_pattern(r"\d")) == 1
    thought = check_pattern(r"<think>.*</think>\s*<answer>.*</answer>")
    assert has_format("<think>a\nb</think> <answer>5</answer>\n", problem, pattern=thought) == 1
    assert has_format("Well. <think>a</think><answer>5</answer>", problem, pattern=thought) == 0
    assert [short_enough("x" * n, problem, max_characters=10) for n in (10, 15, 20, 30)] == [1, 0.5, 0, 0]
    with pytest.raises(UserError, match="pattern"):
        check_pattern("(")


def test_sum_of_rewards_and_a_reward_that_is_no_number():
    reward = WeightedReward((("a", 2.0, lambda text, problem: 1.0), ("b", -0.5, lambda text, problem: len(text))))
    assert reward.total(reward.score("xx", Problem(()))) == 1.0
    broken = WeightedReward((("c", 1.0, lambda text, problem: float("nan")),))
    with pytest.raises(UserError, match="reward c returned nan, expected a finite number"):
        broken.score("", Problem(()))


def test_function_of_a_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def short(text, problem):\n    return 1 / len(text)\n")
    function = load_function(f"{path}:short")
    assert function("ab", Problem(())) == 0.5
    with pytest.raises(UserError, match="ZeroDivisionError"):
        function("", Problem(()))
    with pytest.raises(UserError, match="has no function long"):
        load_function(f"{path}:long")


def test_problem_of_messages_and_of_question_and_answer():
    turns = [{"role": "user", "content": "2 + 3?"}, {"role": "assistant", "content": "5"}]
    assert problem_of({"messages": turns}).answer == "5"
    problem = problem_of({"question": "2 + 3?", "answer": 5, "tests": "x"}, "Be short.")
    assert [each["role"] for each in problem.messages] == ["system", "user"]
    assert (problem.prompt, problem.answer, problem.fields) == ("2 + 3?", "5", {"tests": "x"})


def test_book_page():
    page = Path(__file__).parents[2] / "book" / "rewards.md"
    result = doctest.testfile(str(page), module_relative=False)
    assert result.attempted >= 5
    assert result.failed == 0


@linux
def test_programs():
    problem = Problem((), fields={"tests": ["assert double(4) == 8", "assert double(0) == 0"]})
    right = "Here:\n```python\ndef double(x):\n    print('doubled')\n    return 2 * x\n```\nDone."
    assert unit_tests(right, problem, timeout_seconds=20) == 1
    assert unit_tests(right.replace("2 *", "3 *"), problem, timeout_seconds=20) == 0


@linux
@pytest.mark.parametrize(
    "program",
    [
        "import os; os._exit(0)",
        "open('made', 'w')",
        "import os; os.open('made', os.O_CREAT)",
        "import os; os.remove(__import__('sys').executable)",
        "import os; os.kill(os.getppid(), 9)",
        "import socket; socket.socket()",
        "import ctypes; assert ctypes.CDLL(None).socket(2, 1, 0) >= 0",
        "import os; os.fork()",
        "x = bytearray(1 << 40)",
    ],
)
def test_what_a_program_cannot_do(program):
    assert not passes_tests(program, "pass", timeout_seconds=20)


@linux
def test_time_limit():
    assert not passes_tests("while True: pass", "pass", timeout_seconds=0.5)


def test_tests_of_published_sets():
    lists = {"test_setup_code": "import math", "test_list": ["assert f(1) == 1", "assert f(2) == 2"]}
    problem = problem_of({"text": "Write f.", "code": "def f(x): return x", **lists, "challenge_test_list": []})
    assert problem.fields["tests"] == "import math\nassert f(1) == 1\nassert f(2) == 2"
    assert problem.prompt == "Write f."
    in_table = {"prompt": "Write f.", "test_imports": "['import math']", "test_list": '["assert f(1) == 1"]'}
    assert problem_of(in_table).fields["tests"] == "import math\nassert f(1) == 1"
    check = problem_of({"prompt": "def f(x):", "test": "def check(c):\n    assert c(1)", "entry_point": "f"}).fields[
        "tests"
    ]
    assert check == "def check(c):\n    assert c(1)\ncheck(f)"
    assert unit_tests("def f(x): return x", Problem((), None, {"tests": check}), timeout_seconds=5) == 1


def test_solutions_in_latex():
    problem = problem_of({"prompt": [{"role": "user", "content": "2 + 3?"}], "solution": "$5$"})
    assert exact_answer("so it is 5", problem) == 1
    assert exact_answer(r"\(\frac12\)", Problem((), r"$\frac12$")) == 1
    assert exact_answer("it costs $5", Problem((), "5")) == 1
