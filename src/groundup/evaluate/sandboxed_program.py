"""The process of code_sandbox.py: limits, a filter of system calls, then the program and its tests from standard input.

Started as a script: `python -I -S -B sandboxed_program.py SECONDS BYTES`; it imports nothing of this package. Input: a secret,
the length of the program, the program, its tests. The secret is written back after the last test.
"""

import ctypes
import os
import platform
import resource
import struct
import sys

ALLOWED = {
    "x86_64": (
        0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 19, 20, 21, 24, 25, 28, 32, 35, 39, 60, 63, 79, 89, 96, 97, 98, 99,
        100, 102, 104, 107, 108, 131, 186, 201, 202, 204, 217, 228, 229, 230, 231, 262, 267, 269, 273, 318, 332, 334, 439,
    ),
    "aarch64": (
        17, 23, 48, 57, 61, 62, 63, 64, 65, 66, 67, 73, 78, 79, 80, 93, 94, 98, 99, 101, 113, 114, 115, 123, 124, 132, 134, 135,
        139, 153, 160, 163, 165, 169, 172, 174, 175, 176, 177, 178, 179, 214, 215, 216, 222, 226, 233, 278, 291, 293, 439,
    ),
}  # fmt: skip
"""Numbers of the system calls that remain: read and write of open files, status, folders, memory, time, identity, exit."""
OPENING = {"x86_64": ((2, 1), (257, 2)), "aarch64": ((56, 2),)}
"""open and openat, which remain for reading, with the index of their flags."""
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

LOAD, JUMP_EQUAL, JUMP_ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000 | 1, 0x80000000
"""REFUSE: the call returns EPERM."""
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16
"""Offsets in struct seccomp_data; an argument has 8 bytes, the lower half first."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2


def instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """One instruction of a filter; a jump skips so many instructions."""
    return struct.pack("HBBI", code, if_true, if_false, value)


def filter_program(machine: str) -> bytes:
    """The filter: all calls are refused but those of ALLOWED, and opening a file to read it."""
    program = [
        instruction(LOAD, ARCHITECTURE),
        instruction(JUMP_EQUAL, ARCHITECTURES[machine], 1, 0),
        instruction(RETURN, KILL),
        instruction(LOAD, NUMBER),
    ]
    for number in ALLOWED[machine]:
        program += [instruction(JUMP_EQUAL, number, 0, 1), instruction(RETURN, ALLOW)]
    for number, argument in OPENING[machine]:
        program += [
            instruction(JUMP_EQUAL, number, 0, 4),
            instruction(LOAD, ARGUMENTS + 8 * argument),
            instruction(JUMP_ANY_BIT, WRITING, 0, 1),
            instruction(RETURN, REFUSE),
            instruction(RETURN, ALLOW),
        ]
    return b"".join([*program, instruction(RETURN, REFUSE)])


def confine(seconds: int, memory: int) -> None:
    """Limit this process, and take from it what no computation needs. Raises OSError or KeyError where that cannot be done."""
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    code = filter_program(platform.machine())
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0):
        raise OSError(ctypes.get_errno(), "no filter of system calls")


def main() -> None:
    secret, length, text = sys.stdin.buffer.read().decode("utf-8").split("\n", 2)
    program, tests = text[: int(length)], text[int(length) :]
    report = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what the program prints
    confine(int(sys.argv[1]), int(sys.argv[2]))
    names = {"__name__": "__main__"}
    exec(compile(program, "program", "exec"), names)
    exec(compile(tests, "tests", "exec"), names)
    os.write(report, secret.encode())


if __name__ == "__main__":
    main()
