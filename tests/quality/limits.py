"""What a step cache at its default settings must keep, and what was measured when these settings were chosen.

Eight clips per case, each of its own held-out prompt and seed; euler, both branches in one call; `models/demo` of November 2026:

                     MagCache auto                    DBCache auto
case                 SSIM    worst clip  calls saved  SSIM    worst clip  calls saved
t2v, 20 steps        .9987   .9964       50.0 %       .9946   .9899       44.5 %
i2v, 20 steps        .9995   .9989       50.0 %       .9983   .9959       45.0 %
two experts, 20      .9905   .9685       55.0 %       .9853   .9626       41.7 %
two experts, 40      .9986   .9921       55.0 %       .9986   .9928       42.9 %

Two experts chained at half of 20 steps, beside the boundary at which the table was measured (.875), MagCache auto, four clips:
shift 5                .9871   .9770       55.0 %    (of eight clips .9939 and .9797)
shift 8                .9966   .9948       50.0 %    (of eight clips .9980 and .9924)
Two other ways to read the table there (eight clips, with the text encoder before it learnt defaults, when these were .9944 and
.9982): the steps beyond the boundary compute (.9934 and 50.0 % for shift 5, the same for shift 8), and the other
expert's ratios for them (the same plans). With a change at step 14 of shift 5, straight on: .9953 and 55 %, computing: .9919
and 40 %; at step 4: .9969 and 50 %, .9971 and 40 %.

Of the 128 things asked, the judge read all from the dense clips, and all from the accelerated ones of both.
`python -m pytest tests/quality -s` prints these figures anew.
"""

LEAST_SSIM = 0.95
"""Mean over the frames of a clip, then over the clips of a case, against the dense clips of the same seeds: the windowed SSIM of
`fastvideo_core.quality`, data range 1."""
LEAST_CUT = {"MagCache": 0.45, "DBCache": 0.35}
"""Share of a case's transformer block calls that must be saved."""
MOST_LOST_POINTS = 2.0
"""Percent of the things that the prompts of all cases ask for which the judge may no longer read."""
LEAST_SPARSE_SSIM = 0.93
"""As LEAST_SSIM, of sparse attention, for which the model was not trained. NABLA as its authors have it (mass 0.9), sparse from
step 6 of 20 on, tiles of 1 x 2 x 2 tokens, eight clips each: t2v .9524 (worst clip .9096) at a density of .572, i2v .9840 (.9643)
at .553; all 32 things asked are shown by both."""
MOST_DENSITY = 0.65
"""Share of the pairs of tokens that sparse self-attention may compute in its sparse steps."""
