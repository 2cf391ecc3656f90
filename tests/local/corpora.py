"""Made-up copies of the public corpora, a few seconds each, in the layout and with the oddities of the real ones.

Speech is whistled: every letter, phone or character a chord of its own, so that a tiny network can learn it.
"""

import io
import json
import tarfile

import numpy as np
import soundfile

from tests.recipes.tiny.prepare import LETTERS_HZ, RATE_HZ, chord, silence

CHORDS = list(LETTERS_HZ.values())
WORDS = ["ADO", "BED", "GOT", "TAB", "IT", "DOG"]


def whistle(units, speaker, rate_hz=RATE_HZ, rng=None):
    """Whistle a sequence of words, each a list of units. Args: speaker: whole number. Returns: (S,) float32."""
    rng = rng or np.random.default_rng([speaker, sum(map(ord, "".join("".join(word) for word in units)))])
    pieces = [silence(0.08)]
    for word in units:
        pieces += [chord([(1 + 0.02 * (speaker % 5)) * hz for hz in CHORDS[ord(unit[-1]) % 8]], 0.1) for unit in word]
        pieces.append(silence(0.1))
    sound = 0.2 * np.concatenate([*pieces, silence(0.08)])
    sound += 0.005 * rng.standard_normal(len(sound))
    return sound[:: RATE_HZ // rate_hz].astype(np.float32)


def save(path, samples, rate_hz=RATE_HZ, **kind):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate_hz, **kind)


def texts(speaker, count):
    """`count` texts of two or three words, others for every speaker."""
    rng = np.random.default_rng(speaker)
    return [" ".join(rng.choice(WORDS, size=2 + i % 2)) + (" BIB" if i == 0 else "") for i in range(count)]


def librispeech(root, parts=("train-clean-5", "dev-clean-2"), speakers=4, first=19):
    """LibriSpeech/PART/SPEAKER/CHAPTER/SPEAKER-CHAPTER-NNNN.flac and one .trans.txt a chapter."""
    for at, part in enumerate(parts):
        for speaker in range(100 * at + first, 100 * at + first + speakers):
            folder = root / "LibriSpeech" / part / str(speaker) / "198"
            lines = []
            for i, text in enumerate(texts(speaker, 3)):
                save(folder / f"{speaker}-198-{i:04d}.flac", whistle(text.split(), speaker))
                lines.append(f"{speaker}-198-{i:04d} {text}\n")
            (folder / f"{speaker}-198.trans.txt").write_text("".join(lines))
    (root / "LibriSpeech" / "SPEAKERS.TXT").write_text("; ID | SEX | SUBSET\n")
    return root


def timit(root, upper=True, suffix=".WAV"):
    """TRAIN/DR1/FCJF0/SX37.{WAV,PHN,TXT,WRD} in either case, NIST SPHERE; SA sentences; speakers in neither test list."""
    case = str.upper if upper else str.lower
    names = {"train": ["fcjf0", "mdac0", "mrcg0"], "test": ["faks0", "mdab0", "fdhc0", "mzzz0"]}
    for half, speakers in names.items():
        for number, speaker in enumerate(speakers):
            folder = root / case("timit") / case(half) / case(f"dr{1 + number % 2}") / case(speaker)
            for i, stem in enumerate(["sa1", "si648", "sx37"]):
                phones = ["h#", "sh", "ix", "hv", "eh", "dcl", "d", "ax-h", "q", "ux", "zh", "kcl", "k", "h#"][: 14 - i]
                phones = [*phones[:-1], "h#"]
                folder.mkdir(parents=True, exist_ok=True)
                sound = whistle(
                    [[phone] for phone in phones], number, rng=np.random.default_rng([number, i, len(half)])
                )
                audio = folder / (case(stem) + (case(suffix) if suffix.count(".") == 1 else case(".wav") + ".wav"))
                kind = {"format": "NIST", "subtype": "PCM_16"} if suffix == ".WAV" else {"format": "WAV"}
                save(audio, sound, **kind)
                lines = [f"{1000 * at} {1000 * (at + 1)} {phone}\n" for at, phone in enumerate(phones)]
                (folder / case(f"{stem}.phn")).write_text("".join(lines))
                (folder / case(f"{stem}.txt")).write_text("0 9000 She had.\n")
                (folder / case(f"{stem}.wrd")).write_text("0 900 she\n")
    return root


def aishell(root, archives=True):
    """data_aishell/wav/S0002.tar.gz (or unpacked) and transcript/; one recording has no transcript, one line no recording."""
    top, lines = root / "data_aishell", ["BAC009S9999W0001 没 有 录音"]
    (top / "transcript").mkdir(parents=True)
    (top / "wav").mkdir()
    sets = {"train": range(2, 5), "dev": range(724, 726), "test": range(764, 766)}
    for name, speakers in sets.items():
        for speaker in speakers:
            files = {}
            for i, text in enumerate(["而 对 楼市", "成交 抑制 作用", "最 大 的 限 购"]):
                stem = f"BAC009S{speaker:04d}W{122 + i:04d}"
                buffer = io.BytesIO()
                soundfile.write(
                    buffer, whistle([[char] for char in text.replace(" ", "")], speaker), RATE_HZ, format="WAV"
                )
                files[f"{name}/S{speaker:04d}/{stem}.wav"] = buffer.getvalue()
                if not (speaker == 2 and i == 2):
                    lines.append(f"{stem} {text}")
            write_files(top / "wav", files, f"S{speaker:04d}.tar.gz" if archives else None)
    (top / "transcript/aishell_transcript_v0.8.txt").write_text("".join(f"{line}\n" for line in sorted(lines)))
    return root


def write_files(folder, files, archive=None):
    """Write files, into a tar archive if one is named."""
    if archive is None:
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return
    with tarfile.open(folder / archive, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def yesno(root, count=60):
    """waves_yesno/0_1_..._0.wav, 8 kHz, with the archive's README and an editor's backup of it."""
    folder = root / "waves_yesno"
    for number in range(count):
        digits = f"{(number * 37) % 256:08b}"
        sound = whistle([["YES" if digit == "1" else "NA"] for digit in digits], 0, 8000, np.random.default_rng(number))
        save(folder / f"{'_'.join(digits)}.wav", sound, 8000)
    (folder / "README").write_text("Hebrew\n")
    (folder / "README~").write_text("Hebrew\n")
    return root


HEADER = "client_id\tpath\tsentence_id\tsentence\tsentence_domain\tup_votes\tdown_votes\tage\tgender\taccents\tvariant\tlocale\tsegment"


def commonvoice(root, locale="en"):
    """cv-corpus-21.0/LOCALE: TSV tables and MP3 clips; quotes that are text, quotes around, a path without suffix, 48 kHz."""
    top = root / "cv-corpus-21.0-2025-03-14" / locale
    for name, first in {"train": 0, "dev": 4, "test": 7}.items():
        rows = [HEADER]
        for speaker in range(first, first + (4 if name == "train" else 3)):
            for i, text in enumerate(texts(speaker, 2)):
                stem = f"common_voice_{locale}_{1000 + speaker * 10 + i}"
                sound = np.repeat(whistle(text.split(), speaker), 3)
                save(top / "clips" / f"{stem}.mp3", sound, 48000, format="MP3")
                sentence = [
                    f'"{text.capitalize()}, {text.split()[0].lower()}’s."',
                    f'{text.title()} "{text.lower()}"!',
                ][i]
                client = f"{speaker:x}".rjust(4, "e") * 32
                path = stem if speaker == 0 else f"{stem}.mp3"
                rows.append("\t".join([client, path, "s1", sentence, "", "2", "0", "", "", "", "", locale, ""]))
        (top / f"{name}.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (top / "validated.tsv").write_text(HEADER + "\n")
    return root


# consonants, a vowel sign, and n without a vowel in its older encoding: letter, virama, joiner
MALAYALAM = [*"\u0d15\u0d17\u0d1a\u0d1f\u0d24\u0d2a\u0d2e\u0d2f\u0d32\u0d38", "\u0d15\u0d3f", "\u0d28\u0d4d\u200d"]
# reader -> sentences: one has read much, four visitors the first ones, four others the next, three others further ones, one of
# these a sentence of the next, too
MSC_READERS = {"most": range(90, 160)} | dict.fromkeys(("early", "earlier", "earliest", "first"), range(160, 170))
MSC_READERS |= {"one": range(30), "two": range(30), "three": range(30, 60), "four": range(30, 60)}
MSC_READERS |= {"five": range(60, 70), "six": range(70, 80), "seven": [*range(80, 90), 0]}


def msc(root):
    """speech.tsv, sentences.tsv and audio/, as the Malayalam Speech Corpus: votes for and against, none, a file that is no sound."""
    rng = np.random.default_rng(0)
    texts = [" ".join("".join(rng.choice(MALAYALAM, 4)) for _ in range(2)) for _ in range(170)]
    sentences = [f"s{number:03d}\t{text}.\tproverb" for number, text in enumerate(texts)]
    # the same sentence under another id, as the corpus has some
    sentences.append(f"s999\t{texts[0]}\tdefault")
    rows = []
    for speaker, (name, read) in enumerate(MSC_READERS.items()):
        for number in read:
            stem, key = f"{name}{number}", "s999" if (name, number) == ("two", 0) else f"s{number:03d}"
            save(root / "audio" / f"{stem}.webm", whistle(texts[number].split(), speaker), format="FLAC")
            rows.append(f"r{stem}\t{key}\t{name}\taudio/{stem}.webm\t\t\t{1 + number % 4}")
    rows += [f"rno{vote}\ts001\tmost\taudio/most90.webm\t\t\t{vote}" for vote in ("default", "0", "-3")]
    (root / "audio/damaged.webm").write_bytes(bytes(range(64)))
    rows.append("rdamaged\ts090\tmost\taudio/damaged.webm\t\t\t3")
    head = "id\tsentence\tuser\tfileName\tsample\ttime\tvote"
    (root / "speech.tsv").write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    (root / "sentences.tsv").write_text("\n".join(["id\tsentence\tcategory", *sentences]) + "\n", encoding="utf-8")
    return root


def kaldi(root, pipe=False):
    """data/{train,dev,test} with segments in train, paths relative to the folder above, a command if asked for."""
    for name, first in {"train": 0, "dev": 5, "test": 7}.items():
        tables = {table: [] for table in ("wav.scp", "segments", "text", "utt2spk")}
        for speaker in range(first, first + (4 if name == "train" else 2)):
            parts = [whistle(text.split(), speaker) for text in texts(speaker, 3)]
            audio = f"wav/{name}{speaker}.wav"
            save(root / audio, np.concatenate(parts))
            place = f"cat {root / audio} |" if pipe and speaker == 0 else audio
            tables["wav.scp"].append(f"rec{speaker} {place}")
            edges = np.cumsum([0, *map(len, parts)]) / RATE_HZ
            for i, text in enumerate(texts(speaker, 3)):
                utt = f"s{speaker}-{i}"
                tables["segments"].append(f"{utt} rec{speaker} {edges[i]:.3f} {edges[i + 1]:.3f}")
                tables["text"].append(f"{utt} {text.lower()}")
                tables["utt2spk"].append(f"{utt} s{speaker}")
        folder = root / name
        folder.mkdir(parents=True)
        for table, lines in tables.items():
            (folder / table).write_text("".join(f"{line}\n" for line in sorted(lines)))
        owners = {}
        for line in sorted(tables["utt2spk"]):
            owners.setdefault(line.split()[1], []).append(line.split()[0])
        (folder / "spk2utt").write_text("".join(f"{speaker} {' '.join(utts)}\n" for speaker, utts in owners.items()))
    return root


def manifest(root, kind="jsonl"):
    """NeMo's JSON lines (with offsets into one long file) or Hugging Face's metadata.csv beside the sound files."""
    for name, first in {"train": 0, "dev": 4, "test": 6}.items():
        rows = []
        for speaker in range(first, first + (4 if name == "train" else 2)):
            for i, text in enumerate(texts(speaker, 3)):
                sound = whistle(text.split(), speaker)
                save(root / name / f"{speaker}_{i}.wav", sound)
                rows.append(
                    {"audio": f"{speaker}_{i}.wav", "text": f"{text.capitalize()}, yes?", "speaker": f"sp {speaker}"}
                )
        if kind == "jsonl":
            lines = [
                {
                    "audio_filepath": f"{name}/{row['audio']}",
                    "duration": round(soundfile.info(root / name / row["audio"]).duration, 2),
                    "text": row["text"],
                    "speaker": row["speaker"],
                }
                for row in rows
            ]
            content = "\ufeff" + "".join(json.dumps(line, ensure_ascii=False) + "\r\n" for line in lines)
            (root / f"{name}_manifest.json").write_text(content, encoding="utf-8")
        else:
            lines = [f'{row["audio"]},"{row["text"]}",{row["speaker"]}' for row in rows]
            (root / name / "metadata.csv").write_text("file_name,transcription,speaker_id\n" + "\n".join(lines) + "\n")
    return root


def labelled_folder(root, speakers=6, labels=("tab", "bed", "turn_on", "go"), takes=2):
    """LABEL/SPEAKER_nohash_N.wav as Speech Commands has them, with its folder of noise and its README."""
    for label in labels:
        for speaker in range(speakers):
            for take in range(takes):
                sound = whistle([label.replace("_", "").upper()], speaker, rng=np.random.default_rng([speaker, take]))
                save(root / label / f"{speaker:08x}_nohash_{take}.wav", sound)
    save(root / "_background_noise_" / "white_noise.wav", np.random.default_rng(0).normal(0, 0.05, RATE_HZ))
    (root / "README.md").write_text("Speech Commands\n")
    return root
