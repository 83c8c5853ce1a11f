"""CRC-32C, by which TensorFlow's files tell damage (Castagnoli's polynomial, as in iSCSI, RFC 3720)."""

from __future__ import annotations

import numpy as np

from tierwave.system.compiling import compiled

_POLYNOMIAL = 0x82F63B78  # reflected


def _tables() -> np.ndarray:
    """uint32 `[8, 256]`: what each byte does to the sum, with 0 to 7 bytes after it."""
    tables = np.zeros((8, 256), np.uint32)
    entry = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        entry = np.where(entry & 1, (entry >> 1) ^ np.uint32(_POLYNOMIAL), entry >> 1)
    tables[0] = entry
    for row in range(1, 8):
        tables[row] = tables[0][tables[row - 1] & 0xFF] ^ (tables[row - 1] >> 8)
    return tables


_TABLES = _tables()


def crc32c(data: bytes | np.ndarray) -> int:
    """The checksum of bytes."""
    return int(_sum(np.frombuffer(data, np.uint8), _TABLES))


@compiled
def _sum(data: np.ndarray, tables: np.ndarray) -> np.uint32:
    """Of bytes `[count]`, eight at a time."""
    total = np.uint32(0xFFFFFFFF)
    whole = len(data) // 8 * 8
    for at in range(0, whole, 8):
        a = total ^ (
            np.uint32(data[at])
            | np.uint32(data[at + 1]) << np.uint32(8)
            | np.uint32(data[at + 2]) << np.uint32(16)
            | np.uint32(data[at + 3]) << np.uint32(24)
        )
        total = np.uint32(
            tables[7, a & 0xFF]
            ^ tables[6, (a >> 8) & 0xFF]
            ^ tables[5, (a >> 16) & 0xFF]
            ^ tables[4, (a >> 24) & 0xFF]
            ^ tables[3, data[at + 4]]
            ^ tables[2, data[at + 5]]
            ^ tables[1, data[at + 6]]
            ^ tables[0, data[at + 7]]
        )
    for at in range(whole, len(data)):
        total = np.uint32(tables[0, (total ^ data[at]) & 0xFF] ^ (total >> np.uint32(8)))
    return total ^ np.uint32(0xFFFFFFFF)
