"""Whether a wanted time to collision is what comes out, and what that costs the rest of the scene: one JSON line.

    python benchmarks/severity.py JOB.yaml --windows URI [--where SQL] [--places 192] [--seed 0]

One attempt at each place, of the job's first directive three times: as it is; unsteered, without its severity; and free, with
the AV alone. Counts attempts that keep all rules but that of severity, and those of them inside the wanted range; `lift` is the
share of attempts inside, steered over unsteered. `mmd2`: of the agents that nobody asked for at t0, beside the log's, mean over
the places, by TrafficGen's rule (0 is alike); `ratio`: steered over free.
"""

import argparse
import json
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from sdiff import columns
from sdiff.directives import job as job_files
from sdiff.directives.directive import Directive, DoesNotFit, Severity
from sdiff.directives.judging import asked_for, judge, ttc_with_asked_s
from sdiff.directives.search import find, window_rows
from sdiff.directives.units import Asked, Unit, sample, steered_tokens
from sdiff.generation import MakeUnits, Work, load_checkpoint
from sdiff.metrics.matching import token_index
from sdiff.metrics.mmd import scene_mmd2_trafficgen
from sdiff.scene import Agents
