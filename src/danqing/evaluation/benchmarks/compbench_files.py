"""The files of T2I-CompBench that are read, as they were in May 2026."""

from typing import Final

from danqing.evaluation.benchmarks.benchmark import File

OBJECTS: Final = "new_objects.txt"
"""Things that are counted, in the singular and the plural."""
_PLACE: Final = "https://github.com/Karine-Huang/T2I-CompBench/raw/1b7094991a57f3c22abdd4f6e8ba6c1a15517073/examples/dataset"
_SHA256: Final = {
    "color_val.txt": "1634259756dbc77d13093d907d414480080ec9790a8c97ad09efaea7b2534f2d",
    "shape_val.txt": "37e1a276906c7ea9516cbd7ac8501be896006c0c17ca7344f260562834455bae",
    "texture_val.txt": "fbb5363515b4a28009e360afaaaf389d2dd2289e50dbb0c6ef4ea0c7fe4f3d4f",
    "spatial_val.txt": "8707a1d7e42ce3002d95363cf55f74bd043c843ae27108f5125aaaa7840ca988",
    "3d_spatial_val.txt": "c9953597315f36a5fcb41291bb19bdc6ab5f64a0fa760d691b4854a73f5d1fe9",
    "numeracy_val.txt": "dad8df141604b70ba7554bec724e3db0a80023680769b5c514854ea2d2527bbe",
    "non_spatial_val.txt": "04c56cc9ac441dc9ea6c5157652058bd1635b5308526dd31bb29a1caab9a758d",
    "complex_val.txt": "1b808018b8d9916db3d47d5aa2ef18377a3549a56901a474156f799824cdf3b4",
    "complex_val_action.txt": "d49ee4c7f99e3f3379fb8704a54ff5288b83bb412971edf616a4721c2473308e",
    "complex_val_spatial.txt": "6c7ac0ab75c7c9080cfc7b421fb059b9b0febb98471707aeedf58771088abc02",
    "new_objects.txt": "f39a3d2ff6067d7738673cbf465dc659ccc750776162989a5d9916f1d5f3e231",
    "color_val_seen.txt": "9b2859d9107b2ed4cae95808749de5ac3557a280eb79067a8ef55c4eec7711a9",
    "color_val_unseen.txt": "7fa6f76bb602df9624262ee819f0b1ede20c14880cbacfb7fe8ce79f8157b5c2",
    "shape_val_seen.txt": "5581f4c8904e11b00fe6e33d2cc21a5822f59f39f43fa51479bc30aa6d458a4d",
    "shape_val_unseen.txt": "35b17a7b015405c5c96c51c5cd969a786b3855c48e6f68c184626f5db444d987",
    "texture_val_seen.txt": "5548a49c68efefbbc88b2eb6dffd0f141373235370659158a5d15fdbd82c8c96",
    "texture_val_unseen.txt": "6035f7dd8fd9efd6fbeedef64b04e1f651e977b2a1b9c47365c9e4eed0edc27b",
}
FILES: Final = tuple(
    File(name=name, address=f"{_PLACE}/{name}", sha256=digest, optional="seen" in name)
    for name, digest in _SHA256.items()
)
