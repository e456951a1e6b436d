"""The block on a GPU in one launch each way, in Triton: x is read from memory once, and y is written once.

A sample's map is cut into tiles of channels and positions, and each tile is two items of work. *Reduce* sums the tile
and projects the sums: the projection is linear, so the parts of all tiles add up. The program that arrives last at its
sample adds the parts, in their order, and publishes the result. *Scale* waits for that, computes the factors of its
channels, and multiplies. It finds the tile in the GPU's L2 cache, since no more than ``lag`` samples lie between both
readings, and what is read for the last time or written is marked as the first to leave the cache. Backward is the same
with the sums of dy * x, and has *gradient* items at the end, which add over the samples.

Programs that held their tile in registers until their sample was summed would read x once without the cache's help.
They took 1.3 times as long on an H100: they wait where these work.

No deadlock: a program has one item, and takes it by an atomic ticket. Reduce items wait for nothing. All other items
wait only for reduce items with lower tickets, which running programs hold. So it does not matter how many programs the
GPU can hold, in which order it starts them, or what else runs there.

Two runs give the same bits: which program adds the parts is chance; which parts it adds, and in which order, is not.

All arithmetic is in float32 (N-1), without a product of matrices that could be TF32 (N-4); results are rounded once
(N-2). Counters are 0 before and after each launch: the program that leaves last resets them.
"""

import triton
import triton.language as tl

# Kinds of items.
REDUCE, SCALE, GRADIENT = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
# The counters: tickets that were taken, samples that are finished, and one counter for each sample.
TICKETS, FINISHED, SAMPLES = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


# Activations and gates (A-1 to A-8, G-1 to G-5), and their derivatives. Comparisons are written so that NaN stays.


@triton.jit
def sigmoid(v):
    t = tl.exp(-tl.abs(v))
    return tl.where(v < 0, t, 1.0) / (1.0 + t)


@triton.jit
def tanh(v):
    t = tl.exp(-2.0 * tl.abs(v))
    far = (1.0 - t) / (1.0 + t)
    q = v * v
    near = v * (1.0 - q * (1 / 3 - q * (2 / 15 - q * (17 / 315 - q * (62 / 2835)))))
    return tl.where(tl.abs(v) < 0.25, near, tl.where(v < 0, -far, far))


@triton.jit
def clip(v, low: tl.constexpr, high: tl.constexpr):
    return tl.where(v <= low, low, tl.where(v >= high, high, v))


@triton.jit
def activate(u, NAME: tl.constexpr, SLOPE: tl.constexpr):
    if NAME == "relu":
        return tl.where(u <= 0, 0.0, u)
    elif NAME == "silu":
        return u * sigmoid(u)
    elif NAME == "hard_swish":
        return u * clip(u + 3.0, 0.0, 6.0) / 6.0
    elif NAME == "gelu":
        return 0.5 * u * (1.0 + tl.erf(u * 0.7071067811865476))
    elif NAME == "gelu_tanh":
        return 0.5 * u * (1.0 + tanh(0.7978845608028654 * (u + 0.044715 * u * u * u)))
    elif NAME == "leaky_relu":
        return tl.where(u > 0, u, SLOPE * u)
    elif NAME == "relu6":
        return clip(u, 0.0, 6.0)
    elif NAME == "sigmoid":
        return sigmoid(u)
    elif NAME == "tanh":
        return tanh(u)
    else:
        tl.static_assert(NAME == "identity")
        return u


@triton.jit
def derive_activation(u, NAME: tl.constexpr, SLOPE: tl.constexpr):
    if NAME == "relu":
        return tl.where(u <= 0, 0.0, 1.0)
    elif NAME == "silu":
        g = sigmoid(u)
        return g * (1.0 + u * (1.0 - g))
    elif NAME == "hard_swish":
        return tl.where(u <= -3.0, 0.0, tl.where(u >= 3.0, 1.0, (2.0 * u + 3.0) / 6.0))
    elif NAME == "gelu":
        density = 0.3989422804014327 * tl.exp(-0.5 * u * u)
        return 0.5 * (1.0 + tl.erf(u * 0.7071067811865476)) + u * density
    elif NAME == "gelu_tanh":
        t = tanh(0.7978845608028654 * (u + 0.044715 * u * u * u))
        inner = 0.7978845608028654 * (1.0 + 3 * 0.044715 * u * u)
        return 0.5 * (1.0 + t) + 0.5 * u * (1.0 - t * t) * inner
    elif NAME == "leaky_relu":
        return tl.where(u > 0, 1.0, SLOPE)
    elif NAME == "relu6":
        return tl.where((u <= 0) | (u >= 6.0), 0.0, 1.0)
    elif NAME == "sigmoid":
        g = sigmoid(u)
        return g * (1.0 - g)
    elif NAME == "tanh":
        t = tanh(u)
        return 1.0 - t * t
    else:
        return tl.full(u.shape, 1.0, tl.float32)


@triton.jit
def apply_gate(v, NAME: tl.constexpr, SLOPE: tl.constexpr, OFFSET: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr):
    if NAME == "hard_sigmoid":
        return clip(SLOPE * v + OFFSET, LOW, HIGH)  # G-5
    else:
        return activate(v, NAME, 0.0)  # G-1 to G-4


@triton.jit
def derive_gate(
    v, NAME: tl.constexpr, SLOPE: tl.constexpr, OFFSET: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr
):
    if NAME == "hard_sigmoid":
        line = SLOPE * v + OFFSET
        return tl.where((line <= LOW) | (line >= HIGH), 0.0, SLOPE)
    else:
        return derive_activation(v, NAME, 0.0)


# Items, and waiting for others


@triton.jit
def find_item(ticket, samples, tiles, lag):
    """Return kind, sample and tile of a ticket.

    ``lag`` samples are reduced first; then one is scaled for each that is reduced; at last, ``lag`` are scaled.
    """
    group = ticket // tiles
    pair = group - lag
    both = 2 * (samples - lag)
    is_scale = (pair >= both) | ((pair >= 0) & (pair % 2 == 0))
    kind = tl.where(group >= 2 * samples, GRADIENT, tl.where(is_scale, SCALE, REDUCE))
    paired = tl.where(is_scale, pair // 2, lag + pair // 2)
    sample = tl.where(pair < 0, group, tl.where(pair < both, paired, pair - (samples - lag)))
    tile = tl.where(group >= 2 * samples, ticket - 2 * samples * tiles, ticket % tiles)
    return kind, sample, tile


@triton.jit
def take_ticket(counters, programs):
    ticket = tl.atomic_add(counters + TICKETS, 1, sem="relaxed", scope="gpu")
    if ticket == programs - 1:
        tl.atomic_xchg(counters + TICKETS, 0, sem="relaxed", scope="gpu")
    return ticket


@triton.jit
def arrive(counter):
    """Publish what this program has written; return how many arrived before, whose writings are visible from now on."""
    tl.debug_barrier()
    return tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu")


@triton.jit
def wait(counter, arrivals):
    """Wait until so many arrived, and see what they have written."""
    while tl.atomic_add(counter, 0, sem="acquire", scope="gpu") < arrivals:
        pass


@triton.jit
def leave(counter, last):
    """Count a program that has waited; the last one resets the counter."""
    if tl.atomic_add(counter, 1, sem="relaxed", scope="gpu") == last:
        tl.atomic_xchg(counter, 0, sem="relaxed", scope="gpu")


# Maps and parameters


@triton.jit
def locate_tile(
    sample, tile, C, P, TP, PT,
    BC: tl.constexpr, BP: tl.constexpr, VECTOR: tl.constexpr, CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Return the tile's channels, the offsets of its elements, and which of them there are.

    ``VECTOR`` divides a row, and Triton must see that: it loads as many elements at a time.
    ``WIDE``: a sample has 2^31 elements or more, so that offsets within it need 64 bits.
    """
    if CHANNELS_LAST:
        C = (C // VECTOR) * VECTOR
    else:
        P = (P // VECTOR) * VECTOR
    c = (tile // TP) * BC + tl.arange(0, BC)
    first = tile % TP
    offset = c[:, None]
    if WIDE:
        first, offset = first.to(tl.int64), offset.to(tl.int64)
    p = first * PT + tl.arange(0, BP)
    is_inside = (c < C)[:, None] & ((p < P) & (p < (first + 1) * PT))[None, :]
    if CHANNELS_LAST:  # noqa: SIM108  # a constant, so that only one branch is compiled
        offsets = p[None, :] * C + offset
    else:
        offsets = offset * P + p[None, :]
    return c, sample.to(tl.int64) * C * P + offsets, is_inside


@triton.jit
def project_back(w, values, c, out, C, R, BR: tl.constexpr, BY_ROW: tl.constexpr):
    """Write the sums over these channels of values * w, for all hidden r; w is (R, C) if ``BY_ROW``, else (C, R)."""
    for start in range(0, R, BR):
        r = start + tl.arange(0, BR)
        offsets = r[:, None] * C + c[None, :] if BY_ROW else c[None, :] * R + r[:, None]
        weight = tl.load(w + offsets, mask=(r < R)[:, None] & (c < C)[None, :], other=0.0).to(tl.float32)
        tl.store(out + r, tl.sum(weight * values[None, :], 1), mask=r < R)


@triton.jit
def compute_logits(
    w, b, hidden, c, C, R,
    BC: tl.constexpr, BR: tl.constexpr, BIAS: tl.constexpr, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr,
):  # fmt: skip
    """Compute v of these channels from u of the sample (E-2, E-3)."""
    v = tl.zeros((BC,), tl.float32)
    for start in range(0, R, BR):
        r = start + tl.arange(0, BR)
        h = activate(tl.load(hidden + r, mask=r < R, other=0.0, cache_modifier=".cg"), ACTIVATION, SLOPE)
        weight = tl.load(w + c[:, None] * R + r[None, :], mask=(c < C)[:, None] & (r < R)[None, :], other=0.0)
        v += tl.sum(weight.to(tl.float32) * tl.where(r < R, h, 0.0)[None, :], 1)
    if BIAS:
        v += tl.load(b + c, mask=c < C, other=0.0).to(tl.float32)
    return v


@triton.jit
def add_parts(parts, count, extent, i, BT: tl.constexpr, BI: tl.constexpr):
    """Add ``count`` rows of ``extent`` numbers at the columns i, in a fixed order."""
    total = tl.zeros((BI,), tl.float32)
    for start in range(0, count, BT):
        t = start + tl.arange(0, BT)
        offsets = t.to(tl.int64)[:, None] * extent + i[None, :]
        is_inside = (t < count)[:, None] & (i < extent)[None, :]
        total += tl.sum(tl.load(parts + offsets, mask=is_inside, other=0.0, cache_modifier=".cg"), 0)
    return total


@triton.jit
def add_channels(parts, out, C, TP, BT: tl.constexpr, BI: tl.constexpr):
    """Add what the tiles of the same channels have written."""
    for start in range(0, C, BI):
        i = start + tl.arange(0, BI)
        tl.store(out + i, add_parts(parts, TP, C, i, BT, BI), mask=i < C)


# The two kernels


@triton.jit(do_not_specialize=["programs", "N", "TILES", "TP", "LAG"])
def forward(
    x, y, w1, b1, w2, b2, kept, parts, counters,
    programs, N, C, R, P, TILES, TP, PT, LAG,
    BC: tl.constexpr, BP: tl.constexpr, VECTOR: tl.constexpr, BR: tl.constexpr,
    BT: tl.constexpr, BI: tl.constexpr, BTC: tl.constexpr, BIC: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr, SPLIT: tl.constexpr,
    SINGLE: tl.constexpr, BIAS: tl.constexpr, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr,
    GATE: tl.constexpr, G0: tl.constexpr, G1: tl.constexpr, G2: tl.constexpr, G3: tl.constexpr,
    GAIN: tl.constexpr, RESIDUAL: tl.constexpr,
):  # fmt: skip
    """Write y; ``kept`` becomes z (N, C) and u (N, R), ``parts`` those of u (N, TILES, R) and of z (N, TP, C)."""
    kind, n, tile = find_item(take_ticket(counters, programs), N, TILES, LAG)
    sample = n.to(tl.int64)
    c, offsets, is_inside = locate_tile(n, tile, C, P, TP, PT, BC, BP, VECTOR, CHANNELS_LAST, WIDE)
    z = kept + sample * C
    u = kept + N.to(tl.int64) * C + sample * R
    u_parts = parts + sample * TILES * R
    z_parts = parts + N.to(tl.int64) * TILES * R + sample * TP * C
    counter = counters + SAMPLES + n

    if kind == REDUCE:
        values = tl.load(x + offsets, mask=is_inside, other=0.0, eviction_policy="evict_last").to(tl.float32)
        mean = tl.sum(values, 1) / P  # S-1
        tl.store((z_parts + (tile % TP) * C if SPLIT else z) + c, mean, mask=c < C)
        if not SINGLE:
            project_back(w1, mean, c, u_parts + tile * R, C, R, BR, True)  # E-1
        if arrive(counter) == TILES - 1:
            if SPLIT:
                add_channels(z_parts, z, C, TP, BTC, BIC)
            if not SINGLE:
                for start in range(0, R, BI):
                    r = start + tl.arange(0, BI)
                    total = add_parts(u_parts, TILES, R, r, BT, BI)
                    if BIAS:
                        total += tl.load(b1 + r, mask=r < R, other=0.0).to(tl.float32)
                    tl.store(u + r, total, mask=r < R)
            arrive(counter)
    else:
        unscaled = tl.load(x + offsets, mask=is_inside, other=0.0, eviction_policy="evict_first")
        wait(counter, TILES + 1)
        hidden = z if SINGLE else u
        v = compute_logits(w2, b2, hidden, c, C, R, BC, BR, BIAS, ACTIVATION, SLOPE)
        s = GAIN * apply_gate(v, GATE, G0, G1, G2, G3)  # C-2
        wide = unscaled.to(tl.float32)
        result = wide * s[:, None]  # C-1
        if RESIDUAL:
            result += wide  # C-3
        tl.store(y + offsets, result.to(y.dtype.element_ty), mask=is_inside, eviction_policy="evict_first")
        leave(counter, 2 * TILES)


@triton.jit(do_not_specialize=["programs", "N", "TILES", "TP", "LAG"])
def backward(
    x, dy, dx, w1, w2, b2, dw1, db1, dw2, db2,
    kept, work, counters,
    programs, N, C, R, P, TILES, TP, PT, LAG,
    BC: tl.constexpr, BP: tl.constexpr, VECTOR: tl.constexpr, BR: tl.constexpr,
    BT: tl.constexpr, BI: tl.constexpr, BTC: tl.constexpr, BIC: tl.constexpr,
    GN: tl.constexpr, GC: tl.constexpr, GR: tl.constexpr,
    CHANNELS_LAST: tl.constexpr, WIDE: tl.constexpr, SPLIT: tl.constexpr,
    SINGLE: tl.constexpr, BIAS: tl.constexpr, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr,
    GATE: tl.constexpr, G0: tl.constexpr, G1: tl.constexpr, G2: tl.constexpr, G3: tl.constexpr,
    GAIN: tl.constexpr, RESIDUAL: tl.constexpr,
):  # fmt: skip
    """Write dx and the parameters' gradients.

    ``kept`` is the forward kernel's; ``work`` becomes s (N, C), dv (N, C), du (N, R), and the parts of du
    (N, TILES, R) and of dv (N, TP, C).
    """
    kind, n, tile = find_item(take_ticket(counters, programs), N, TILES, LAG)
    samples, sample = N.to(tl.int64), n.to(tl.int64)
    dv = work + samples * C
    du = dv + samples * C
    counter = counters + SAMPLES + n

    if kind == GRADIENT:
        wait(counters + FINISHED, N)
        hidden = kept if SINGLE else kept + samples * C
        add_over_samples(
            tile, kept, hidden, dv, du, dw1, db1, dw2, db2, N, C, R, GN, GC, GR, SINGLE, BIAS, ACTIVATION, SLOPE
        )
        leave(counters + FINISHED, N + programs - 2 * N * TILES - 1)
    else:
        c, offsets, is_inside = locate_tile(n, tile, C, P, TP, PT, BC, BP, VECTOR, CHANNELS_LAST, WIDE)
        s_of_sample, dv_of_sample, du_of_sample = work + sample * C, dv + sample * C, du + sample * R
        du_parts = du + samples * R + sample * TILES * R
        dv_parts = du + samples * R + samples * TILES * R + sample * TP * C
        u = kept + sample * C if SINGLE else kept + samples * C + sample * R

        if kind == REDUCE:
            values = tl.load(x + offsets, mask=is_inside, other=0.0, eviction_policy="evict_first").to(tl.float32)
            slopes = tl.load(dy + offsets, mask=is_inside, other=0.0, eviction_policy="evict_last").to(tl.float32)
            ds = tl.sum(values * slopes, 1)
            v = compute_logits(w2, b2, u, c, C, R, BC, BR, BIAS, ACTIVATION, SLOPE)
            part = ds * (GAIN * derive_gate(v, GATE, G0, G1, G2, G3))
            tl.store(
                s_of_sample + c, GAIN * apply_gate(v, GATE, G0, G1, G2, G3), mask=c < tl.where(tile % TP == 0, C, 0)
            )
            tl.store((dv_parts + (tile % TP) * C if SPLIT else dv_of_sample) + c, part, mask=c < C)
            project_back(w2, part, c, du_parts + tile * R, C, R, BR, False)
            if arrive(counter) == TILES - 1:
                if SPLIT:
                    add_channels(dv_parts, dv_of_sample, C, TP, BTC, BIC)
                for start in range(0, R, BI):
                    r = start + tl.arange(0, BI)
                    total = add_parts(du_parts, TILES, R, r, BT, BI)
                    hidden_u = tl.load(u + r, mask=r < R, other=0.0)
                    tl.store(du_of_sample + r, total * derive_activation(hidden_u, ACTIVATION, SLOPE), mask=r < R)
                arrive(counter)
                arrive(counters + FINISHED)
        else:
            unscaled = tl.load(dy + offsets, mask=is_inside, other=0.0, eviction_policy="evict_first")
            wait(counter, TILES + 1)
            s = tl.load(s_of_sample + c, mask=c < C, other=0.0, cache_modifier=".cg")
            if RESIDUAL:
                s += 1.0
            if SINGLE:
                dz = tl.load(du_of_sample + c, mask=c < C, other=0.0, cache_modifier=".cg")
            else:
                dz = tl.zeros((BC,), tl.float32)
                for start in range(0, R, BR):
                    r = start + tl.arange(0, BR)
                    du_r = tl.load(du_of_sample + r, mask=r < R, other=0.0, cache_modifier=".cg")
                    is_weight = (c < C)[:, None] & (r < R)[None, :]
                    weight = tl.load(w1 + r[None, :] * C + c[:, None], mask=is_weight, other=0.0).to(tl.float32)
                    dz += tl.sum(weight * du_r[None, :], 1)
            result = unscaled.to(tl.float32) * s[:, None] + (dz / P)[:, None]
            tl.store(dx + offsets, result.to(dx.dtype.element_ty), mask=is_inside, eviction_policy="evict_first")
            leave(counter, 2 * TILES)


@triton.jit
def add_over_samples(
    tile, z, hidden, dv, du, dw1, db1, dw2, db2, N, C, R,
    GN: tl.constexpr, GC: tl.constexpr, GR: tl.constexpr,
    SINGLE: tl.constexpr, BIAS: tl.constexpr, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr,
):  # fmt: skip
    """Write the parameters' gradients of GC channels and GR hidden values, added over the samples in their order."""
    rows = (R + GR - 1) // GR
    c, r = (tile // rows) * GC + tl.arange(0, GC), (tile % rows) * GR + tl.arange(0, GR)
    reduce_weight, expand_weight = tl.zeros((GC, GR), tl.float32), tl.zeros((GC, GR), tl.float32)
    reduce_bias, expand_bias = tl.zeros((GR,), tl.float32), tl.zeros((GC,), tl.float32)
    for start in range(0, N, GN):
        n = start + tl.arange(0, GN)
        by_c = n.to(tl.int64)[:, None] * C + c[None, :]
        by_r = n.to(tl.int64)[:, None] * R + r[None, :]
        is_c, is_r = (n < N)[:, None] & (c < C)[None, :], (n < N)[:, None] & (r < R)[None, :]
        slope = tl.load(dv + by_c, mask=is_c, other=0.0, cache_modifier=".cg")
        h = tl.where(is_r, activate(tl.load(hidden + by_r, mask=is_r, other=0.0), ACTIVATION, SLOPE), 0.0)
        expand_weight += tl.sum(slope[:, :, None] * h[:, None, :], 0)
        expand_bias += tl.sum(slope, 0)
        if not SINGLE:
            part = tl.load(du + by_r, mask=is_r, other=0.0, cache_modifier=".cg")
            mean = tl.load(z + by_c, mask=is_c, other=0.0)
            reduce_weight += tl.sum(mean[:, :, None] * part[:, None, :], 0)
            reduce_bias += tl.sum(part, 0)
    is_weight = (c < C)[:, None] & (r < R)[None, :]
    tl.store(dw2 + c[:, None] * R + r[None, :], expand_weight.to(dw2.dtype.element_ty), mask=is_weight)
    if not SINGLE:
        tl.store(dw1 + r[None, :] * C + c[:, None], reduce_weight.to(dw1.dtype.element_ty), mask=is_weight)
    if BIAS:
        tl.store(db2 + c, expand_bias.to(db2.dtype.element_ty), mask=c < tl.where(tile % rows == 0, C, 0))
        if not SINGLE:
            tl.store(db1 + r, reduce_bias.to(db1.dtype.element_ty), mask=r < tl.where(tile // rows == 0, R, 0))
