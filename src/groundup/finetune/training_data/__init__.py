"""What models are taught with, from files: conversations, preferences, problems, pairs and labelled texts.

Files, in reading order:

    read_stats.py             what was read, dropped and changed, with file and line
    turn_checks.py            checks and repairs of the order of turns
    unnamed_file.py           a temporary file for what is larger than memory should be
    conversation_store.py     a conversation, and many of them in a file
    conversation_trees.py     trees of messages as conversations
    dialogue_files.py         ChatterBot's YAML and gettext catalogues
    conversations.py          conversations from files, and the validation split
    record_reader.py          records of files as items without duplicates
    preference_data.py        preferences and labelled answers from files
    problems.py               problems from files
    example_sources.py        pairs of texts and labelled texts from files
    passage_pairs.py          pairs of passages of the training text
    input_check.py            both of these sources, read before anything runs
"""
