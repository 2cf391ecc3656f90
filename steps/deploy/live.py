"""Sound that is not over yet: from a microphone or from a file that grows; and its text on a terminal while it comes."""

import contextlib
import queue
import signal
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO

import numpy as np

from steps.core.cli import UserError, printable, tell

# of sound that may wait for a model that is too slow
WAITING_S = 60
# of sound that a microphone delivers at once
BLOCK_MS = 50


@contextlib.contextmanager
def until_interrupt() -> Iterator[Callable[[], bool]]:
    """Ctrl-C ends the sound, not the program, once. Yields: function that tells whether it came."""
    came: list[int] = []

    def note(number: int, _frame: Any) -> None:
        came.append(number)
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGINT, before)


class Growing:
    """Text on a terminal that only grows: what was shown stays. Args: terminal: None: shown nowhere."""

    def __init__(self, terminal: TextIO | None):
        self.terminal, self.shown = terminal, ""

    def show(self, text: str) -> None:
        """Show what is new. Args: text: begins with what is shown already."""
        if self.terminal is not None and text != self.shown:
            self.terminal.write(printable(text[len(self.shown) :]))
            self.terminal.flush()
            self.shown = text

    def close(self) -> None:
        """End the line, if there is one."""
        if self.shown and self.terminal is not None:
            self.terminal.write("\n")
            self.terminal.flush()


def listen(recogniser: Any, sound: Iterable[np.ndarray], terminal: TextIO | None) -> str:
    """Recognise sound while it comes.

    Args:    recogniser: that streams, from `steps.deploy.realtime.streaming`.   sound: (S,) float32 arrays at its rate.
             terminal: where the text is shown while it grows.
    Returns: its text, greedily.   Raises: UserError.
    """
    stream, shown = recogniser.stream(), Growing(terminal)
    try:
        for samples in sound:
            stream.accept(samples)
            shown.show(stream.text)
            stream.forget()
        stream.finish()
        shown.show(stream.text)
    finally:
        shown.close()
    return stream.text


def microphone(
    rate_hz: int, is_stopped: Callable[[], bool], resampled: Callable[..., Iterator[np.ndarray]]
) -> Iterator[np.ndarray]:
    """Sound from the default microphone until `is_stopped`.

    Args:   resampled: see steps/data/online_resample.py: for microphones that have only another rate.
    Yields: (S,) float32 at `rate_hz`.   Raises: UserError where there is no sounddevice, PortAudio or microphone.
    """
    sounddevice = _open_sounddevice()
    own_hz = _own_rate(sounddevice, rate_hz)
    try:
        yield from resampled(_blocks(sounddevice, own_hz, is_stopped), own_hz, rate_hz, "microphone")
    except sounddevice.PortAudioError as error:
        raise UserError(f"the microphone cannot be opened at {own_hz} Hz ({error})") from None


def _own_rate(sounddevice: Any, rate_hz: int) -> int:
    """The rate that is wanted, or else the microphone's own."""
    try:
        sounddevice.check_input_settings(samplerate=rate_hz, channels=1, dtype="float32")
        return rate_hz
    except (sounddevice.PortAudioError, ValueError):
        pass
    try:
        return int(sounddevice.query_devices(kind="input")["default_samplerate"])
    except (sounddevice.PortAudioError, ValueError) as error:
        raise UserError(f"there is no microphone ({error})") from None


def _blocks(sounddevice: Any, rate_hz: int, is_stopped: Callable[[], bool]) -> Iterator[np.ndarray]:
    waiting: queue.Queue[np.ndarray] = queue.Queue(WAITING_S * 1000 // BLOCK_MS)
    lost: list[bool] = []

    def take(samples: np.ndarray, _frames: int, _time: Any, status: Any) -> None:
        if status:
            lost.append(True)
        try:
            waiting.put_nowait(samples[:, 0].copy())
        except queue.Full:
            lost.append(True)

    options = {"samplerate": rate_hz, "channels": 1, "dtype": "float32", "blocksize": rate_hz * BLOCK_MS // 1000}
    with sounddevice.InputStream(callback=take, **options):
        tell("listening; Ctrl-C ends")
        while not is_stopped():
            with contextlib.suppress(queue.Empty):
                yield waiting.get(timeout=0.1)
    while not waiting.empty():
        yield waiting.get_nowait()
    if lost:
        tell(f"some of the sound was lost, {len(lost)} times: the machine was too slow, or busy")


def _open_sounddevice():
    try:
        import sounddevice
    except ModuleNotFoundError:
        raise UserError("--microphone needs sounddevice; pip install -r requirements-microphone.txt") from None
    except OSError as error:
        remedy = "install PortAudio (Debian, Ubuntu: apt install libportaudio2)"
        raise UserError(f"sounddevice does not work here ({error}); {remedy}") from None
    return sounddevice
