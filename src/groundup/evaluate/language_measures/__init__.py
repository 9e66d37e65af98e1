"""What scores of likelihood do not say about a language model.

calibration_error.py   whether probabilities of next tokens are frequencies
sample_diversity.py    repetition and loops of samples, beside held-out text
memorization.py        training text that greedy decoding reproduces, beside held-out text
needle_in_context.py   whether a number is found at any depth of the context
decoder_measures.py    all of these and the scores by language, of a decoder
linear_probe.py        labels of texts from their embeddings, of any architecture
"""

from groundup.evaluate.language_measures.decoder_measures import language_scores, measure_language
from groundup.evaluate.language_measures.linear_probe import probe_labels

__all__ = ["language_scores", "measure_language", "probe_labels"]
