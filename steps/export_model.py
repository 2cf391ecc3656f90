"""Turn a model folder into what ships: ONNX files, their tokens and its feature settings.

    python3 -m steps.export_model --model exp/an4/student --out exp/an4/student/export

The graphs are loaded by onnxruntime and compared with torch at several lengths before they are written. --layout samples writes
model_samples.onnx instead, for sherpa-onnx: a model that hears samples, as its loader of omnilingual CTC models reads one.
A streaming model's graph runs chunk by chunk; --chunk-ms gives the chunks another length than the model's own, 0 a graph for
whole utterances. --matmul nbits writes com.microsoft's MatMulNBits for every Linear, whose codes then take their bits in memory, too
(conf/README.md, Bits).
"""

import sys

import torch

from steps.core.cli import add_common, make_parser, run_main, say
from steps.core.exports import SHERPA_TOKENS
from steps.deploy.export import LAYOUTS, PRODUCTS_OF_CODES, export_folder


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--model", required=True, metavar="DIR", help="model folder")
    text = "how sound goes in: features frame by frame (default), or samples in a row, for sherpa-onnx"
    parser.add_argument("--layout", choices=LAYOUTS, default="features", help=text)
    parser.add_argument(
        "--chunk-ms",
        type=int,
        metavar="MS",
        help="length of the chunks of a streaming model (default: its own; 0: whole utterances)",
    )
    text = "refuse files that multiply fewer integers than this share, 0 to 1, and say what is float (default: any)"
    parser.add_argument("--min-quantized-fraction", type=float, default=0.0, metavar="F", help=text)
    text = "codes of a Linear: unpacked when the file is loaded (default), or left as they are, in MatMulNBits"
    parser.add_argument("--matmul", choices=PRODUCTS_OF_CODES, default="unpacked", help=text)
    add_common(parser, out="folder to write")
    args = parser.parse_args()
    if not 0 <= args.min_quantized_fraction <= 1:
        parser.error(f"--min-quantized-fraction: expected 0 to 1, not {args.min_quantized_fraction:g}")
    torch.set_num_threads(1)
    report = export_folder(args.model, args.out, args.layout, args.chunk_ms, args.min_quantized_fraction, args.matmul)
    say(f"largest difference from torch: {report.largest_difference:.2g} nats, {report.snr_db:.1f} dB")
    say(f"layers in codes: {report.integer_layers}")
    if report.sherpa_tokens:
        what = "sherpa-onnx would take tokens.txt for byte-level BPE and drop letters"
        say(f"{what}: give it {SHERPA_TOKENS} instead ({args.out}/README.md)")
    graph_bytes = report.size_bytes - report.tensor_bytes
    say(f"{report.size_bytes:,} bytes ({graph_bytes:,} of them graph) in {args.out}: {', '.join(report.files)}")


if __name__ == "__main__":
    sys.exit(run_main(main))
