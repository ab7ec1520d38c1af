"""TensorCast's names of whole types, as long names of the grammar.

They follow what a name says where its definition there says something else: `uint8_*` are of eight
bits, and `icb*_f32` have the scale of the others of their kind. Not here are names that mean
something else in this library (`bfp16`, the unsigned `binary8pP`) or that it has itself.
"""

_SCALES = {"f": "float16", "b": "bfloat16", "e": "e8m0"}
_FLOATS = {"e2m1": "e2m1fnuz", "e3m2": "e3m2fnuz", "e2m3": "e2m3fnuz", "e4m3": "e4m3fn"}

TENSORCAST: dict[str, str] = {
    **{f"int{k}_{s}": f"int{k}:{_SCALES[s]}" for k in (8, 16) for s in "fbe"},
    **{f"uint{k}_{s}{s}": f"uint{k}:{_SCALES[s]}_{_SCALES[s]}" for k in (8, 16) for s in "fb"},
    **{f"uint8_{s}i": f"uint8:{_SCALES[s]}_int8" for s in "fb"},
    "e5m2_e": "e5m2:e8m0",
    "e5m2z_e": "e5m2fnuz:e8m0",
    "e4m3z_e": "e4m3fnuz:e8m0",
    **{f"{short}_e": f"{long}:e8m0" for short, long in _FLOATS.items() if short != "e2m1"},
    "mxfp5e2": "e2m2fnuz:e8m0_t32",
    **{f"uint4_{s}{s}32": f"uint4:{_SCALES[s]}_{_SCALES[s]}_t32" for s in "fb"},
    **{f"uint4_{s}i32": f"uint4:{_SCALES[s]}_int8_t32" for s in "fb"},
    "uint4_f12i432": "uint4:e5m6_int4_t32",
    "int4_b32": "int4:bfloat16_t32",
    "int4_f32": "int4:e5m3_t32",
    "e1m6b1_e32": "e1m6b1fnuz:e8m0_t32",
    "e1m2b1_e32": "e1m2b1fnuz:e8m0_t32",
    "e1m2b1_f32": "e1m2b1fnuz:e5m3_t32",
    **{f"{short}_f32": f"{long}:e5m3_t32" for short, long in _FLOATS.items()},
    **{f"e2m1_e32s{s}o{o}": f"e2m1fnuz:e8m0_t32s{s}o{o}" for s in (4, 8) for o in (1, 2)},
    **{
        f"icb44fi{x}_{s}32{sub}": f"icb44fi_{compute}:{scale}_t32{sub}"
        for x, compute in ((4, "e4m3fn"), (3, "e3m2fnuz"), (2, "e2m3fnuz"))
        for s, scale in (("e", "e8m0"), ("f", "e5m3"))
        for sub in ("", "s16", "s8", "s4")
    },
}
