#include "event/uuid.h"

#define FNV_START UINT64_C(14695981039346656037)
#define FNV_PRIME UINT64_C(1099511628211)

static uint32_t source_bits(const struct source *source)
{
	uint64_t hash = FNV_START;

	for (int shift = 56; shift >= 0; shift -= 8)
		hash = (hash ^ (source->system_id >> shift & 255)) * FNV_PRIME;
	for (size_t i = 0; i < source->db.n; i++)
		hash = (hash ^ (uint8_t)source->db.p[i]) * FNV_PRIME;
	return (uint32_t)((hash ^ hash >> 26 ^ hash >> 52) & 0x3ffffff);
}

void uuid_print(const struct source *source, struct position p, char out[UUID_LEN])
{
	uint64_t high = (p.lsn & ~UINT64_C(0xffff)) | 0x8000 | (p.lsn >> 4 & 0xfff);
	uint64_t low = UINT64_C(2) << 62 | (p.lsn & 15) << 58 | (uint64_t)p.ordinal << 26 |
		       source_bits(source);

	for (int i = UUID_LEN - 1; i >= 0; i--) {
		uint64_t *half = i > 18 ? &low : &high;

		if (i == 8 || i == 13 || i == 18 || i == 23) {
			out[i] = '-';
			continue;
		}
		out[i] = "0123456789abcdef"[*half & 15];
		*half >>= 4;
	}
}
