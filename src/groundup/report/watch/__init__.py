"""A training that is going on, as one sees it: curves in the terminal and on a page, drawn from a run's files alone.

Reading order: `tail` (a file that grows), `journals` (which files, and what a training has done), `view` (what is to be
seen of it), `braille` (a curve made of letters), `terminal`,
`live` (the page).

Deliberately absent: any word from the training itself. It writes its journal as it always does, and never knows who looks.
"""
