"""Files of texts to files of vectors, in the processes of a Ray cluster: `neuronbert embed-dataset`.

Importing `neuronbert.dataset.job` needs the extra `ray`. See docs/serving.md for what is kept when a run is broken off.
"""
