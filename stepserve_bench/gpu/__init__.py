"""``stepserve bench gpu``: one GPU's kernels, steps and service, against references and floors."""
