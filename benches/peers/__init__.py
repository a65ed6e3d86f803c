"""train.py beside what else people train with: `python -m benches.peers JOB`, see `options/peers.py`.

A peer is a process of its own, of an interpreter and a script that are given by option; nothing of it is kept here.
"""
