"""Curves of make bench-vectors, drawn by gnuplot (Debian: gnuplot-nox); the same figures give the same bytes."""
import subprocess

import curve

COLOURS = {"ours": "#c0392b", "hnswlib": "#1f618d", "hnswlib, huge pages": "#5dade2", "usearch": "#148f77",
           "FAISS IVFPQ": "#b9770e", "FAISS IVFFlat": "#7d6608", "FAISS HNSW": "#6c3483", "FAISS Flat": "#616a6b", "sqlite-vec": "#212f3c"}
LEAST = 0.7  # recall at the left end
# The nearer to 1 the wider: what counts is the share that is missed.
TICS = ", ".join(f"'{x}' f({x})" for x in (0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1))

HEAD = """set terminal svg size 760,440 font 'sans-serif,13' background rgb 'white' name '{id}'
set output '{out}'
set title "{title}" noenhanced
set xlabel 'recall@10' noenhanced
set ylabel 'searches a second of processor time'
set logscale y
set format y '%.0f'
f(x) = -log10(1.0005 - x)
set xrange [f({least}):f(1) + 0.05]
set xtics ({tics})
set grid xtics ytics lc rgb '#dddddd'
set border 3 lc rgb '#666666'
set tics nomirror
set key outside right top noenhanced
"""


def engines(row):
    out = {}
    for line in row["lines"]:
        engine, _, recall, _, _, speed = line[:6]
        out.setdefault(engine, []).append((float(recall), float(speed.replace(",", ""))))
    return {name: [p for p in curve.front(points) if p[0] >= LEAST] for name, points in out.items()}


def plot(row, out):
    """Writes the SVG of one sheet of all settings (suite_vectors.py) to the file `out`."""
    drawn = {engine: points for engine, points in engines(row).items() if points}
    script = HEAD.format(id=row["group"].replace("-", "_"), out=out, title=f"{row['group'].partition('-')[2]}: {row['caption'].partition(':')[0]}",
                         least=LEAST, tics=TICS)
    for i, points in enumerate(drawn.values()):
        script += f"$d{i} << EOD\n" + "".join(f"{r} {s}\n" for r, s in points) + "EOD\n"
    script += "plot " + ", ".join(
        f"$d{i} using (f($1)):2 with linespoints lw {3 if engine == 'ours' else 1.5} pt 7 ps 0.5 lc rgb '{COLOURS.get(engine, '#000000')}' title '{engine}'"
        for i, engine in enumerate(drawn)) + "\n"
    subprocess.run(["gnuplot", "-"], input=script, text=True, check=True)
