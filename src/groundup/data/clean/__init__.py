"""Cleaning: normalize, filter and mask documents, one at a time.

step_types.py      Mapper and Filter, the two kinds of steps
normalize.py       Unicode normalization and mojibake repair
language.py        language identification and the language filter
language_rules.py  stop words and words by language
ngrams.py          word n-grams as hashes
gopher.py          Gopher quality filter
repetition.py      Gopher repetition filter
c4.py              C4 line mapper and page filter
fineweb.py         FineWeb filter
code_filter.py     source code filter
word_list.py       filter by a list of words
classifier.py      quality classifier, trained on examples
phone_numbers.py   telephone numbers
ip_addresses.py    public IP addresses
id_numbers.py      identity, account and card numbers
secret_patterns.py keys, tokens and passwords
pii.py             personal data and secrets replaced by tokens
cleaning_steps.py  the steps of each kind of source, in order
"""
