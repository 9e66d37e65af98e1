"""Wrong arguments of public functions raise a UserError of one line: value, expectation, hint."""

import pytest
import torch

import groundup as g
import groundup.data
from groundup.generate import generate
from groundup.model import Encoder
from groundup.train import train

CONFIG = {"vocab_size": 260, "hidden_size": 16, "num_layers": 1, "num_heads": 2, "context_length": 16}


def model(**knobs):
    return g.build_model(g.ModelConfig(**CONFIG | knobs))


def apply_lora_twice():
    decoder = model()
    g.apply_lora(decoder, 2, 4.0)
    g.apply_lora(decoder, 2, 4.0)


def save_lora(folder="unused"):
    decoder = model()
    g.apply_lora(decoder, 2, 4.0)
    g.save_model(decoder, folder)


def wrong_architecture():
    return Encoder(g.ModelConfig(**CONFIG))


TOKENIZER = g.train_tokenizer(["a"], 260)
BATCH = [{"tokens": torch.ones(1, 8, dtype=torch.long)}]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: g.ModelConfig(n_layer=2), "unknown option n_layer .*num_layers"),
        (lambda: g.ModelConfig(**CONFIG | {"hidden_size": 33}), "hidden_size = 33 is not divisible by num_heads = 2"),
        (lambda: g.clean_texts("text"), "texts is one str, expected a list"),
        (lambda: g.clean_texts(["a"], kind="slides"), "kind = 'slides', expected one of"),
        (lambda: g.clean_texts(["a"], gopher={}), "unknown option gopher .*gopher_quality"),
        (lambda: g.deduplicate("abcabc"), "texts is one str"),
        (lambda: g.deduplicate(["a"], threshold=3), "threshold = 3: expected less than or equal to 1"),
        (lambda: g.clean_texts(["a"], decontaminate={}), "decontaminate has no effect on texts in memory"),
        (lambda: g.clean_texts([g.data.Document("a", "0")]), "texts.0. is a Document, expected a str .*document.text"),
        (lambda: g.clean_texts({"a": "b"}), "texts is a dict, expected a list of texts"),
        (lambda: g.deduplicate(["a"], "slides"), "kind = 'slides', expected one of"),
        (lambda: g.find_duplicates(None), "texts is a NoneType, expected a list of texts"),
        (lambda: g.detect_language(3), "texts is a int, expected a list of texts"),
        (lambda: g.extract_text(["<p>", None]), "texts.1. is a NoneType"),
        (lambda: g.mask_pii(b"a"), "texts is a bytes, expected"),
        (lambda: g.mask_pii("a", email=False), "unknown option email .*emails"),
        (lambda: g.read_documents("a", column="b"), "unknown option column .*text_column"),
        (lambda: g.extract_text("a", "bs4"), "html_extractor = 'bs4', expected one of"),
        (lambda: g.train_tokenizer("text", 300), "texts is one str"),
        (lambda: g.train_tokenizer(["text"], 100), "vocab_size = 100, expected at least 260"),
        (lambda: g.train_tokenizer(["text"], "300"), "vocab_size = '300', expected a number"),
        (lambda: g.train_tokenizer(["text", None], 300), "texts.1. is a NoneType, expected a str"),
        (lambda: g.train_tokenizer(["text"], 300, special_tokens="<s>"), "special_tokens = '<s>', expected a list"),
        (lambda: g.train_tokenizer(["text"], 300, special_tokens=["EOS"]), "special token 'EOS' is a word"),
        (lambda: g.train_tokenizer(["text"], 300, special_tokens=["<s>"], eos="</s>"), "eos = '</s>', expected one of"),
        (lambda: TOKENIZER.encode(["a"]), "text is a list, expected a str .*for each text"),
        (lambda: TOKENIZER.encode_batch("abc"), "texts is one str, expected a list"),
        (lambda: TOKENIZER.encode("a\ud800"), "lone surrogate, U.D800, at character 1"),
        (lambda: TOKENIZER.decode("abc"), "ids is 'abc', expected a list of integers"),
        (lambda: g.Tokenizer.from_merges({0: "a"}, []), "vocabulary: 0: 'a', expected id: bytes"),
        (lambda: g.Tokenizer.from_merges({0: b"a", 1: b"a"}, []), "b'a' has the ids 0 and 1"),
        (lambda: g.Tokenizer.from_merges({0: b"a"}, []), "lacks 255 of the 256 bytes, .*byte_fallback=True"),
        (lambda: g.Tokenizer.from_merges(TOKENIZER.vocabulary, [("a", "b")]), "expected a pair of bytes"),
        (lambda: g.Tokenizer.from_merges(TOKENIZER.vocabulary, [(b"z", b"q")]), "b'zq' is not in the vocabulary"),
        (lambda: g.make_batches([0.5] * 100, 8, 2), "token ids are float64, expected integers"),
        (lambda: g.make_batches([1] * 100, 8, 2, packing="best"), "packing = 'best', expected one of concat, best-fit"),
        (apply_lora_twice, "already has LoRA layers"),
        (lambda: g.apply_lora(model(), 0, 1.0), "rank = 0, expected at least 1"),
        (save_lora, "quantized or has LoRA layers"),
        (wrong_architecture, "architecture = 'decoder', expected 'encoder'"),
        (lambda: g.generate_text(model(architecture="encoder"), TOKENIZER, "a"), "an encoder, which embeds texts"),
        (lambda: g.embed_texts(model(), TOKENIZER, ["a"], pooling="max"), "pooling = 'max', expected one of mean"),
        (lambda: g.generate_text(model(), TOKENIZER, "hello", temperature=0.5), r"SamplingParams\(temperature=0.5\)"),
        (lambda: g.perplexity(model(), [1]), "1 token, expected at least 2"),
        (lambda: train(model(), [1, 2], steps=1), "batches is a list of int, expected"),
        (lambda: train(model(), BATCH, steps=1, lr=0.1), "unknown option lr .*learning_rate"),
        (lambda: train(model(), BATCH, steps=1, precision="fp16"), "precision = 'fp16': expected"),
        (lambda: train(model(), BATCH, steps=0), "steps = 0: expected"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(g.UserError, match=message.replace("|", r"\|")) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_texts_of_paths_names_of_dtypes_and_tensors_are_accepted(tmp_path):
    g.save_model(model(), str(tmp_path / "a"))
    decoder = g.load_model(str(tmp_path / "a"), dtype="bfloat16")
    assert len(generate(decoder, torch.tensor([1, 2]), max_tokens=3)) == 3
    g.export_huggingface(decoder, None, str(tmp_path / "b"), dtype=torch.bfloat16)
    assert (tmp_path / "b" / "config.json").is_file()


def test_a_text_without_letters_has_no_language():
    assert g.detect_language("") == g.detect_language("12 + 3!") == ("unknown", 0.0)
