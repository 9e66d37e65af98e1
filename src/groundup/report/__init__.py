"""14. Reporting: the plan and the results of a run as PDF and HTML.

    run_data.py          a run folder as one dictionary
    quality_checks.py    warnings about memorized text, degenerate samples, low scores
    formatting.py        numbers and excerpts as text
    elements.py          elements of a report as plain data
    curves.py            smoothing and downsampling of curves
    plot_style.py        style of plots, figures as SVG
    training_plots.py    plots of training and evaluation
    corpus_plots.py      plots of a corpus
    quantization_plots.py  quality of quantized models against size
    sections/            one module per section of the report
    report_document.py   the report: cover page and sections
    pdf_report.py        PDF, by Typst
    html_report.py       self-contained HTML page
    blueprint/           sections of the plan's document
    plan_document.py     the plan alone as a PDF
    plan_history.py      planned and measured time and memory of all runs
    report_files.py      report files of a run
    comparison_plot.py   scores and differences of compared models
    rating_page.py       page for blind side-by-side rating of answers
    run_summary.py       summary in the terminal
    stage.py             stage 11-report

Deliberately absent: torch, and every chapter but the plan. A report reads manifests; no stage writes to it.
"""

from groundup.report.html_report import render_html
from groundup.report.pdf_report import render_pdf
from groundup.report.report_files import build_report, write_report

__all__ = ["build_report", "render_html", "render_pdf", "write_report"]
