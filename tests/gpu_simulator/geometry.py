"""What the simulated driver knows of each GPU: a transcription of its own, held against the platform's table by a test.

Sources: the profile tables of NVIDIA's MIG user guide ("Supported MIG Profiles"), `nvidia-smi mig -lgip` and `-lgipp` as quoted in
public captures (H100 and H200 of driver 580.173.02, A100 of 460 and 525, A30 of 535, RTX PRO 6000 of 580.105.08). B200, GB200: the
guide's counts on the placements of H100, since no capture of theirs was found.
"""

import collections

# number, name, most, starts, size as `-lgip` and `-lgipp` print them.
Row = collections.namedtuple("Row", "id name most starts size")
Model = collections.namedtuple("Model", "product architecture devices slots slices rows")

SEVENTHS = "19 1g.{a}gb 7 0123456 1|20 1g.{a}gb+me 1 0123456 1|15 1g.{b}gb 4 0246 2|14 2g.{b}gb 3 024 2|9 3g.{c}gb 2 04 4|5 4g.{c}gb 1 0 4|0 7g.{d}gb 1 0 8"
QUARTERS = "14 1g.6gb 4 0123 1|21 1g.6gb+me 1 0123 1|5 2g.12gb 2 02 2|6 2g.12gb+me 1 02 2|0 4g.24gb 1 0 4"
TWELFTHS = (
    "14 1g.24gb 4 0369 3|21 1g.24gb+me 1 0369 3|47 1g.24gb+gfx 4 0369 3|65 1g.24gb+me.all 1 0369 3|67 1g.24gb-me 4 0369 3|"
    "5 2g.48gb 2 06 6|35 2g.48gb+gfx 2 06 6|64 2g.48gb+me.all 1 06 6|66 2g.48gb-me 2 06 6|0 4g.96gb 1 0 12|32 4g.96gb+gfx 1 0 12"
)


def _rows(text):
    found = []
    for line in text.split("|"):
        number, name, most, starts, size = line.split()
        found.append(Row(int(number), name, int(most), tuple(int(digit) for digit in starts), int(size)))
    return tuple(found)


def _sevenths(product, architecture, devices, sizes):
    a, b, c, d = sizes.split()
    return Model(product, architecture, tuple(devices.split()), 8, 7, _rows(SEVENTHS.format(a=a, b=b, c=c, d=d)))


MODELS = {
    "A30-24GB": Model("NVIDIA A30", "Ampere", ("20B7",), 4, 4, _rows(QUARTERS)),
    "A100-40GB": _sevenths("NVIDIA A100-SXM4-40GB", "Ampere", "20B0 20B1 20F1", "5 10 20 40"),
    "A800-40GB": _sevenths("NVIDIA A800 40GB Active", "Ampere", "20F6", "5 10 20 40"),
    "A100-80GB": _sevenths("NVIDIA A100-SXM4-80GB", "Ampere", "20B2 20B5", "10 20 40 80"),
    "A800-80GB": _sevenths("NVIDIA A800-SXM4-80GB", "Ampere", "20F3 20F5", "10 20 40 80"),
    "H100-80GB": _sevenths("NVIDIA H100 80GB HBM3", "Hopper", "2330 2331", "10 20 40 80"),
    "H100-94GB": _sevenths("NVIDIA H100 NVL", "Hopper", "2321", "12 24 47 94"),
    "H100-96GB": _sevenths("NVIDIA H100", "Hopper", "233D", "12 24 48 96"),
    "GH200-96GB": _sevenths("NVIDIA GH200 480GB", "Hopper", "2342", "12 24 48 96"),
    "H20-96GB": _sevenths("NVIDIA H20", "Hopper", "2329", "12 24 48 96"),
    "H200-141GB": _sevenths("NVIDIA H200", "Hopper", "2335 233B", "18 35 71 141"),
    "B200-180GB": _sevenths("NVIDIA B200", "Blackwell", "2901", "23 45 90 180"),
    "GB200-186GB": _sevenths("NVIDIA GB200", "Blackwell", "2941", "23 47 93 186"),
    "RTX-PRO-6000-96GB": Model(
        "NVIDIA RTX PRO 6000 Blackwell Server Edition", "Blackwell", ("2BB5", "2BB1", "2BB4"), 12, 4, _rows(TWELFTHS)
    ),
    # A GPU without MIG, as a machine may have beside one.
    "L4-24GB": Model("NVIDIA L4", "Ada Lovelace", ("27B8",), 0, 0, ()),
}

# GiB, SM, DEC, ENC, CE, JPEG, OFA of `-lgip`. Nothing reads these columns; models without a capture get numbers by their slices.
H100_COLUMNS = {
    19: ("9.75", 16, 1, 0, 1, 1, 0),
    20: ("9.75", 16, 1, 0, 1, 1, 1),
    15: ("19.62", 26, 1, 0, 1, 1, 0),
    14: ("19.62", 32, 2, 0, 2, 2, 0),
    9: ("39.50", 60, 3, 0, 3, 3, 0),
    5: ("39.50", 64, 4, 0, 4, 4, 0),
    0: ("79.25", 132, 7, 0, 8, 7, 1),
}


def columns(model, row):
    """The descriptive columns of one profile."""
    if model.product == "NVIDIA H100 80GB HBM3":
        return H100_COLUMNS[row.id]
    slices, gigabytes = int(row.name[0]), row.name.split(".")[1].split("gb")[0]
    return (gigabytes + ".00", slices * 14, slices, 0, slices, 0, int("+me" in row.name))


def slices(row):
    """Compute slices of a profile."""
    return int(row.name[0])


# NVML's numbers of the profiles (NVML_GPU_INSTANCE_PROFILE_*), the order in which `-lgi` lists them: an H100 with 1g.10gb, 3g.40gb and
# 1g.10gb+me lists them so. Where the numbers are equal, by id.
def listing_order(row):
    """Sort key of a profile in `-lgi`."""
    if row.id == 15:
        return 9
    if "+me" in row.name and ".all" not in row.name:
        return 7 if slices(row) == 1 else 8
    if "+gfx" in row.name or "-me" in row.name or ".all" in row.name:
        return 10 + row.id
    return {1: 0, 2: 1, 3: 2, 4: 3, 7: 4}[slices(row)]


def placement_order(model, row):
    """Where this driver puts an instance without a start, best first.

    The user guide's examples on A100: 1g at 6, 4, 5 and then from 0; 2g at 4, 0, 2; 3g at 4. Other models were seen to begin at 0.
    """
    if model.slots != 8:
        return row.starts
    preferred = {1: (6, 4, 5, 0, 1, 2, 3), 2: (4, 0, 2, 6) if row.id == 14 else (6, 4, 0, 2), 4: (4, 0), 8: (0,)}[row.size]
    return tuple(start for start in preferred if start in row.starts)


def instance_id(model, row, start, swapped=False):
    """The id that a GPU instance gets: halves are 1 and 2, quarters 3 to 6, eighths 7 to 14, in the order of their place.

    Seen: 1g at 4 and 6 are 11 and 13 (H100, H200), 2g at 4 is 5 and 3g at 4 is 2 (A100), 1g on A30 and RTX PRO 6000 begin at 3. On some
    GPUs the halves are ``swapped`` (NVIDIA/DCGM#138: on one machine 1g at 2 is 9 on GPU 0 and 13 on GPU 1), so an id says nothing of a
    place.
    """
    parts = model.slots // row.size
    place = (start + model.slots // 2) % model.slots if swapped and row.size < model.slots else start
    return parts - 1 + place // row.size
