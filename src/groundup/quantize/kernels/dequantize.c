/* Rows of a matrix from codes of 4 or 8 bits in the layout of PyTorch's int4 kernel: see int4_layout.py.

   low           tiles of `rows` rows: (columns, rows / 2) bytes; the low half of byte d is row d, the high half row d + rows / 2
   high          the upper 4 bits of codes of 8 bits, in the same layout; NULL for codes of 4 bits
   scale, offset bfloat16, of row r of group g at g * stride + r * step
   out           bfloat16, (columns, out_stride) */

#include <stdint.h>
#include <string.h>

#define MAX_ROWS 64

static inline float to_float(uint16_t bits) {
    uint32_t word = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &word, 4);
    return value;
}

static inline uint16_t to_bfloat16(float value) { /* to the nearest, ties to even; finite values */
    uint32_t word;
    memcpy(&word, &value, 4);
    return (uint16_t)((word + 0x7fff + ((word >> 16) & 1)) >> 16);
}

static inline __attribute__((always_inline)) void write_column(const uint8_t *low, const uint8_t *high, const float *scale, const float *offset, uint16_t *out,
                         int half) {
    if (high) {
        for (int d = 0; d < half; d++)
            out[d] = to_bfloat16(((low[d] & 15) + 16 * (high[d] & 15) - 128) * scale[d] + offset[d]);
        for (int d = 0; d < half; d++)
            out[half + d] = to_bfloat16(((low[d] >> 4) + 16 * (high[d] >> 4) - 128) * scale[half + d] + offset[half + d]);
    } else {
        for (int d = 0; d < half; d++) out[d] = to_bfloat16(((low[d] & 15) - 8) * scale[d] + offset[d]);
        for (int d = 0; d < half; d++) out[half + d] = to_bfloat16(((low[d] >> 4) - 8) * scale[half + d] + offset[half + d]);
    }
}

void dequantize_tiles(const uint8_t *low, const uint8_t *high, const uint16_t *scale, const uint16_t *offset, uint16_t *out,
                      long num_tiles, long rows, long columns, long groups, long stride, long step, long out_stride) {
    const long half = rows / 2, group = columns / groups;
    float scales[MAX_ROWS], offsets[MAX_ROWS];
    for (long tile = 0; tile < num_tiles; tile++) {
        for (long column = 0; column < columns; column++) {
            if (column % group == 0) {
                const long first = column / group * stride + tile * rows * step;
                for (long row = 0; row < rows; row++) {
                    scales[row] = to_float(scale[first + row * step]);
                    offsets[row] = to_float(offset[first + row * step]);
                }
            }
            const long byte = (tile * columns + column) * half;
            const uint8_t *upper = high ? high + byte : 0;
            uint16_t *to = out + column * out_stride + tile * rows;
            switch (half) { /* loops of a constant length */
                case 32: write_column(low + byte, upper, scales, offsets, to, 32); break;
                case 16: write_column(low + byte, upper, scales, offsets, to, 16); break;
                default: write_column(low + byte, upper, scales, offsets, to, (int)half);
            }
        }
    }
}
