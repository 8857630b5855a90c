"""`atft-engine audit`: what would make a figure better than the model, looked for before the figure is published.

    finding.py     what a check says
    sample.py      a cache as arrays, day by code, that fit into memory
    checks.py      all checks, by what they look at
    audit.py       runs them
    quick.py       the ones that a training runs
    table.py       findings as a table and as JSON

A check is a file with one function. It lies in the folder of what it looks at: features/, labels/, population/,
copies/, truncation/, scores/, run/, selection/.
"""
