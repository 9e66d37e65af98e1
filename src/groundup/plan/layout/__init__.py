"""Layouts: what each parallel axis sends, which ones fit, and the job files of clusters.

Reading order:
    pipeline_schedule.py   properties of pipeline schedules
    communication.py       bytes sent per step and parallel axis
    parallel_layout.py     checks of a parallel layout against the model
    tuning_layout.py       devices of the stages that tune a model
    layout_search.py       the fastest layouts that fit, and why others lost
    job_file.py            Slurm, Kubernetes and SkyPilot job files
"""
