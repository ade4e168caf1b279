#!/usr/bin/env python3
"""Prints the wide-band PESQ (ITU-T P.862.2, 1.0 to 4.64) of marked sound beside the sound as it was, or nothing where there is no
speech: pesq_of.py OWN MARKED, raw stereo f32 at 32 kHz. Wants the packages `pesq` and `scipy`; scripts/mark/look calls it."""
import sys

import numpy as np
from pesq import NoUtterancesError, pesq
from scipy.signal import resample_poly

own, marked = (resample_poly(np.fromfile(path, np.float32).reshape(-1, 2).mean(1), 1, 2) for path in sys.argv[1:3])
try:
    print(pesq(16_000, own, marked, "wb"))
except NoUtterancesError:
    pass
