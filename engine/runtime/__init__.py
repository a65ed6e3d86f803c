"""The machine and the other processes: what they are asked, told and agree on, and what ends a run early."""
