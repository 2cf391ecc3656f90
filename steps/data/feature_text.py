"""The feature definition in words, complete enough to compute the same numbers in another language from it."""

from steps.data.feature_config import FeatureConfig

WINDOWS = {
    "povey": "(0.5 - 0.5 cos(2 pi n / (N - 1)))^0.85, n from 0, N = {length} (`povey`)",
    "hanning": "0.5 - 0.5 cos(2 pi n / (N - 1)), n from 0, N = {length} (`hanning`)",
    "hamming": "0.54 - 0.46 cos(2 pi n / (N - 1)), n from 0, N = {length} (`hamming`)",
    "blackman": "0.42 - 0.5 cos(2 pi n / (N - 1)) + 0.08 cos(4 pi n / (N - 1)), n from 0, N = {length} (`blackman`)",
    "rectangular": "none (`rectangular`)",
}
SAMPLES = """\
Features, as features.yaml says: the samples themselves, one channel, {rate} Hz (resample what has another rate), floats within
[-1, 1], not 16-bit integers. {dim} in a row are a frame, {shift_ms:g} ms; what fills no frame is left out.
"""
TEXT = """\
Features, as features.yaml says: Kaldi's {kind}, {dim} numbers every {shift_ms:g} ms.
1. Samples: one channel, {rate} Hz (resample what has another rate), floats within [-1, 1], not 16-bit integers; no dither.
2. Level: {level}.
3. Frames: {length} samples, every {shift}. {edges}
4. Each frame: its mean is subtracted; pre-emphasis x[n] - 0.97 x[n-1], with x[-1] = x[0]; then the window
   {window}; zeros behind it up to {fft} samples.
5. Power spectrum: |FFT|^2, not divided by anything.
6. {bins} triangular mel filters: mel(f) = 1127 ln(1 + f / 700); {points} points evenly spaced on the mel scale from {low:g} Hz
   to {high:g} Hz; filter i rises from 0 at point i to 1 at point i + 1 and falls to 0 at point i + 2, linear in mel; its
   energy is the sum over the FFT bins, the one at {nyquist:g} Hz left out.
7. Natural logarithm of each energy, of 1.1920929e-07 where it is lower.
"""
CEPSTRA = """\
8. Cepstrum k (from 0) of the {bins} logarithms m[i] (i from 0): sqrt(2 / {bins}) sum of m[i] cos(pi k (i + 0.5) / {bins}), k = 0
   divided by sqrt(2); the first {ceps} of them, each times 1 + 11 sin(pi k / 22). No energy in place of k = 0.
"""


def describe_features(config: FeatureConfig) -> str:
    """All of the feature definition, in lines that end with a line end.

    Source: Kaldi's feat/feature-window.cc, feature-fbank.cc, feature-mfcc.cc, mel-computations.cc.
    """
    if config.kind == "samples":
        return SAMPLES.format(rate=config.sample_rate_hz, dim=config.dim, shift_ms=config.frame_shift_ms)
    length, shift = (int(config.sample_rate_hz * ms / 1000) for ms in (config.frame_length_ms, config.frame_shift_ms))
    if config.snip_edges:
        edges = "Only frames that fit whole: the first starts at sample 0."
    else:
        before = length // 2 - shift // 2
        edges = (
            f"round(samples / {shift}) frames; frame t starts at sample {shift} t - {before}; beyond either end the "
            "sound\n   goes on mirrored: sample -1 is sample 0, -2 is 1."
        )
    if config.level_dbfs is None:
        level = "as recorded"
    else:
        rms = f"{10 ** (config.level_dbfs / 20):.7g}"
        level = f"the sound is scaled to a root mean square of {rms} ({config.level_dbfs:g} dBFS); silence, all zeros, stays"
    text = TEXT + (CEPSTRA if config.kind == "mfcc" else "")
    return text.format(
        kind="log mel filterbank (fbank)" if config.kind == "fbank" else "MFCC",
        dim=config.dim,
        rate=config.sample_rate_hz,
        level=level,
        length=length,
        shift=shift,
        shift_ms=config.frame_shift_ms,
        edges=edges,
        window=WINDOWS[config.window].format(length=length),
        fft=1 << (length - 1).bit_length(),
        bins=config.num_mel_bins,
        points=config.num_mel_bins + 2,
        low=config.low_freq_hz,
        high=config.highest_hz,
        nyquist=config.sample_rate_hz / 2,
        ceps=config.num_ceps,
    )
