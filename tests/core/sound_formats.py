"""Sound files of every format that is read, written for the tests: two chords, the second one up to the very end."""

import numpy as np
import soundfile

RATE_HZ = 16000
SECONDS = 1.2

# What it is, suffix, format and subtype of libsndfile.
SNDFILE = [
    *[(f"WAV, {name}", "wav", "WAV", subtype) for name, subtype in (
        ("8 bits", "PCM_U8"), ("16 bits", "PCM_16"), ("24 bits", "PCM_24"), ("32 bits", "PCM_32"), ("float", "FLOAT"),
        ("double", "DOUBLE"), ("A-law", "ALAW"), ("µ-law", "ULAW"), ("GSM 6.10", "GSM610"), ("Microsoft ADPCM", "MS_ADPCM"),
        ("IMA ADPCM", "IMA_ADPCM"), ("G.721", "G721_32"),
    )],
    ("WAV, extensible header", "wav", "WAVEX", "PCM_16"),
    ("RF64", "wav", "RF64", "PCM_16"),
    ("Wave64", "w64", "W64", "PCM_16"),
    ("NIST SPHERE, 16 bits", "sph", "NIST", "PCM_16"),
    ("NIST SPHERE, µ-law", "sph", "NIST", "ULAW"),
    ("AIFF", "aiff", "AIFF", "PCM_16"),
    ("AU", "au", "AU", "PCM_16"),
    ("CAF, 16 bits", "caf", "CAF", "PCM_16"),
    ("CAF, Apple Lossless", "caf", "CAF", "ALAC_16"),
    ("FLAC", "flac", "FLAC", "PCM_16"),
    ("Ogg Vorbis", "ogg", "OGG", "VORBIS"),
    ("Ogg Opus", "opus", "OGG", "OPUS"),
    ("MP3", "mp3", "MP3", "MPEG_LAYER_III"),
]  # fmt: skip
# What it is, suffix, format and codec of FFmpeg, rate, bits a second.
AV = [
    ("MP4, AAC", "m4a", "ipod", "aac", 16000, None),
    ("MP4, Apple Lossless", "m4a", "ipod", "alac", 16000, None),
    ("MP4 with moov at the start", "mp4", "mp4", "aac", 16000, None),
    ("3GP, AMR", "3gp", "3gp", "libopencore_amrnb", 8000, None),
    ("AMR", "amr", "amr", "libopencore_amrnb", 8000, None),
    ("AAC (ADTS)", "aac", "adts", "aac", 16000, None),
    ("WebM, Opus", "webm", "webm", "libopus", 48000, None),
    ("Matroska, FLAC", "mka", "matroska", "flac", 16000, None),
    ("WMA", "wma", "asf", "wmav2", 16000, 64000),
]


def chords(rate_hz=RATE_HZ, seconds=SECONDS):
    """440 Hz, and 1000 Hz in the last quarter. Returns: (S,) float32."""
    time_s = np.arange(round(seconds * rate_hz)) / rate_hz
    return (0.3 * np.sin(2 * np.pi * np.where(time_s < 0.75 * seconds, 440, 1000) * time_s)).astype(np.float32)


def write_sndfile(path, kind, subtype, samples=None):
    rate_hz = 8000 if subtype in ("GSM610", "G721_32") else RATE_HZ
    soundfile.write(path, chords(rate_hz) if samples is None else samples, rate_hz, subtype=subtype, format=kind)


def write_av(path, kind, codec, rate_hz, bit_rate):
    import av

    options = {"movflags": "faststart"} if kind == "mp4" else {}
    with av.open(str(path), "w", format=kind, options=options) as container:
        stream = container.add_stream(codec, rate=rate_hz, layout="mono")
        if bit_rate:
            stream.bit_rate = bit_rate
        wanted = {"format": stream.codec_context.codec.audio_formats[0].name, "layout": "mono", "rate": rate_hz}
        resampler = av.AudioResampler(**wanted, frame_size=stream.codec_context.frame_size or 1024)
        frame = av.AudioFrame.from_ndarray(chords(rate_hz)[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = rate_hz, 0
        for part in [*resampler.resample(frame), *resampler.resample(None), None]:
            container.mux(stream.encode(part))


def without_xing(path):
    """Take the first frame, which holds the length, out of an MP3 file: so does an encoder write it to a pipe."""
    data = path.read_bytes()
    assert b"Xing" in data[:64] or b"Info" in data[:64]
    path.write_bytes(data[data.index(data[:2], 100) :])


def table():
    """The lines of the table in local/README.md."""
    lines = ["| format | suffix | read by |", "|---|---|---|"]
    rows = [(what, suffix, "libsndfile (soundfile)") for what, suffix, *_ in SNDFILE]
    rows += [(what, suffix, "FFmpeg's libraries (PyAV)") for what, suffix, *_ in AV]
    return lines + [f"| {what} | `.{suffix}` | {library} |" for what, suffix, library in rows]
