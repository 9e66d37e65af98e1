"""Viewers: the corpus of a run, document by document, and its training curves, live or finished.

    alternate_screen.py    full-screen terminal output, keys without Return
    corpus_browser.py      documents of a data folder: kept, dropped, changed, duplicates
    corpus_render.py       one document as text, in color
    corpus_pager.py        `groundup inspect` on a terminal
    run_reader.py          metric files of a training, read incrementally
    dashboard.py           the panels of the dashboard, as data
    braille_canvas.py      line plots in braille characters
    terminal_dashboard.py  `groundup watch` on a terminal
    local_page.py          a web page of this machine alone
    dashboard_server.py    `groundup watch --page`
    dashboard_page/        its HTML, CSS and JavaScript
    form_server.py         `groundup init --form`
    form_page/             its HTML, CSS and JavaScript

Deliberately absent: torch, and any call from the training: a view reads the files that a stage writes anyway.
"""
