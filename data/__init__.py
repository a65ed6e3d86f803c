"""Images from their source to a batch: sources, folders and tables read, decoded once into a cache, split, sampled."""
