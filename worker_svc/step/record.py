"""TEMPORARY"""

import numpy as np

RECORD_WORDS = 128
MAX_BIASES = 1024


def pack_record(admission, max_tokens):
    out = np.zeros(RECORD_WORDS, dtype=np.int32)
    out[0] = max_tokens
    ids = admission.sampling.stop_token_ids
    out[1] = len(ids)
    out[2 : 2 + len(ids)] = ids
    return out


def pack_biases(sampling):
    return np.array([i for i, _ in sampling.logit_bias], dtype=np.int32), np.array(
        [v for _, v in sampling.logit_bias], dtype=np.float32
    ).view(np.int32)
