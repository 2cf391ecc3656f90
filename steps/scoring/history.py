"""What a finished run left of its making: the time of each stage, training curves, settings."""

from pathlib import Path

from steps.scoring.collect import read_json

MOST_POINTS = 300  # of a curve


def read_stages(exp):
    """Tasks of the run, in order. Returns: list of {"stage", "name", "seconds", "finished"}; empty without marks."""
    stages = []
    for path in sorted((Path(exp) / ".stages").glob("*.done")):
        mark = read_json(path)
        stages.append({key: mark.get(key) for key in ("stage", "name", "seconds", "finished")})
    return stages


def read_curves(exp, models):
    """Scalars that the trainings wrote for TensorBoard. Returns: {tag: {model: [(step, value)]}}, thinned out."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # slow to import

    curves = {}
    for model in models:
        folder = Path(exp) / model / "tensorboard"
        if folder.is_dir():
            events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
            events.Reload()
            for tag in events.Tags()["scalars"]:
                points = [(event.step, event.value) for event in events.Scalars(tag)]
                curves.setdefault(tag, {})[model] = points[:: -(-len(points) // MOST_POINTS)]
    return curves


def read_settings(exp, models):
    """Resolved settings, as text. Returns: {model: content of conf.yaml}, for those that have one."""
    files = {model: Path(exp) / model / "conf.yaml" for model in models}
    return {model: file.read_text(encoding="utf-8") for model, file in files.items() if file.is_file()}
