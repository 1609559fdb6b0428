"""People, their images and their poses: data sets and files are read here, and pairs of images made of them."""
