"""Several runs: started together, compared, averaged."""
