"""Methods, trials and the search: a training specification in, finished trials out."""
