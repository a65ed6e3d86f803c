"""What every room may use and what uses no other room: errors, atomic writes, the terminal, one style for plots."""
