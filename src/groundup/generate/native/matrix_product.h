/* y = x W^T + b for a few to some hundred rows of x, with W in float32, bfloat16, or in codes of 4, 6 or 8 bits, which are
   multiplied as they are unpacked: the layout is that of quantize/kernels/int4_layout.py.

   Each row of y is computed by the same operations in the same order whatever the number of rows and of threads. Products are in
   bfloat16 with sums in float32, but for W in float32. Codes are small integers and exact in bfloat16: scale and offset of a group
   are applied to its sum.

   TDPBF16PS of AMX multiplies 16 rows in the time of one; VDPBF16PS of AVX512 is next; plain C serves other processors. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__AVX512BF16__) && defined(__AVX512VBMI__) && defined(__AVX512BW__)
#define WIDE 1
#include <immintrin.h>
#endif
#if defined(WIDE) && defined(__AMX_BF16__) && defined(__linux__)
#define TILES 1
#include <sys/syscall.h>
#include <unistd.h>
#endif

enum { ABSENT, FLOAT32, BFLOAT16, CODES_4, CODES_8, CODES_6 };
#define TILE 64      /* rows of W in an item, and in a tile of codes */
#define SPAN 256    /* the most columns that are unpacked at once, and the largest group */

typedef struct {
    long kind, rows, columns, group; /* group: columns with the same scale */
    long parts;                      /* numbers of the grid for a row: scale, and offset if there is one */
    const void *data;                /* row-major, or the low halves of the codes: (tiles, columns, 32) bytes */
    const uint8_t *high;             /* the upper halves of codes of 8 bits, or bits 4 and 5: (tiles, columns, 16) bytes */
    const uint16_t *grid;            /* bfloat16 (groups, rows rounded up to tiles, parts) */
    const float *bias;               /* or NULL */
    const int64_t *order;            /* of the columns, or NULL */
} matrix;

/* Rows of x as a kind of matrix reads them. */
typedef struct {
    long kind, rows, columns, group, blocks;
    float *values;      /* float32; for codes rounded to bfloat16 */
    uint16_t *rounded;  /* bfloat16 (rows rounded up to 16, columns) */
    uint32_t *pairs;    /* pairs of bfloat16 (blocks of 16 rows, columns / 2, rows of the block) */
    float *sums;        /* (rows, columns / group) */
} operand;

static inline float to_float(uint16_t bits) {
    uint32_t word = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &word, 4);
    return value;
}

static inline uint16_t to_bfloat16(float value) { /* to the nearest, ties to even */
    uint32_t word;
    memcpy(&word, &value, 4);
    if ((word & 0x7fffffff) > 0x7f800000) return 0x7fc0;
    return (uint16_t)((word + 0x7fff + ((word >> 16) & 1)) >> 16);
}

static inline long block_rows(const operand *x, long block) {
    const long left = x->rows - 16 * block;
    return left < 16 ? left : 16;
}

/* Memory for an operand of at most `rows` rows of `columns` numbers; 0 if there is none. */
static int allocate_operand(operand *x, long rows, long columns) {
    const long padded = (rows + 15) / 16 * 16;
    x->values = malloc(sizeof(float) * rows * columns);
    x->rounded = aligned_alloc(64, (sizeof(uint16_t) * padded * columns + 127) / 64 * 64);
    x->pairs = aligned_alloc(64, (sizeof(uint16_t) * padded * columns + 127) / 64 * 64);
    x->sums = malloc(sizeof(float) * (rows * columns / 32 + 16));
    return x->values && x->rounded && x->pairs && x->sums;
}

static void free_operand(operand *x) { free(x->values), free(x->rounded), free(x->pairs), free(x->sums); }

/* Reads rows of float32 or bfloat16, of which row r begins at x + r * stride numbers. */
static void set_operand(operand *to, const matrix *w, const void *x, int is_float, long rows, long stride) {
    const long columns = w->columns;
    to->kind = w->kind, to->rows = rows, to->columns = columns, to->group = w->group, to->blocks = (rows + 15) / 16;
    for (long row = 0; row < rows; row++) {
        const float *wide = (const float *)x + row * stride;
        const uint16_t *narrow = (const uint16_t *)x + row * stride;
        float *values = to->values + row * columns;
        uint16_t *rounded = to->rounded + row * columns;
        for (long c = 0; c < columns; c++) {
            const long from = w->order ? w->order[c] : c;
            values[c] = is_float ? wide[from] : to_float(narrow[from]);
        }
        if (w->kind == FLOAT32) continue;
        for (long c = 0; c < columns; c++) rounded[c] = to_bfloat16(values[c]);
        if (w->kind == BFLOAT16) continue;
        for (long c = 0; c < columns; c++) values[c] = to_float(rounded[c]);
        for (long g = 0; g < columns / w->group; g++) {
            float sum = 0;
            for (long c = g * w->group; c < (g + 1) * w->group; c++) sum += values[c];
            to->sums[row * (columns / w->group) + g] = sum;
        }
    }
#if defined(TILES)
    if (w->kind >= CODES_4) memset(to->rounded + rows * columns, 0, sizeof(uint16_t) * (16 * to->blocks - rows) * columns);
    if (w->kind == BFLOAT16)
        for (long block = 0; block < to->blocks; block++) {
            const long width = block_rows(to, block);
            uint32_t *pairs = to->pairs + block * 16 * (columns / 2);
            for (long row = 0; row < width; row++) {
                const char *from = (const char *)(to->rounded + (16 * block + row) * columns);
                for (long p = 0; p < columns / 2; p++) memcpy(&pairs[p * width + row], from + 4 * p, 4);
            }
        }
#endif
}

#if defined(TILES)
typedef struct {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} __attribute__((aligned(64))) tile_shapes;

/* Tiles 0 to 3: sums. 4: the left operand. 5 to 7: the right one, pairs of rows interleaved. */
static void shape_tiles(long rows, long columns) {
    tile_shapes shapes = {.palette = 1};
    for (int tile = 0; tile < 8; tile++) {
        shapes.rows[tile] = tile <= 4 ? rows : 16;
        shapes.bytes[tile] = tile == 4 ? 64 : 4 * columns;
    }
    _tile_loadconfig(&shapes);
}
#endif

#include "packed_codes.h"

#if defined(TILES)
/* The transpose of sums (16, 16), in rows of y. */
static inline void store_transposed(const float *sums, float *y) {
    __m512 a[16], b[16];
    for (int i = 0; i < 16; i++) a[i] = _mm512_load_ps(sums + 16 * i);
    for (int i = 0; i < 16; i += 2) b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]), b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            a[i + 2 * j] = (__m512)_mm512_unpacklo_pd((__m512d)b[i + j], (__m512d)b[i + j + 2]);
            a[i + 2 * j + 1] = (__m512)_mm512_unpackhi_pd((__m512d)b[i + j], (__m512d)b[i + j + 2]);
        }
    for (int j = 0; j < 4; j++) { /* a[i + j]: column 4 l + j of rows i to i + 3 in lane l */
        const __m512 even = _mm512_shuffle_f32x4(a[j], a[4 + j], 0x88), odd = _mm512_shuffle_f32x4(a[j], a[4 + j], 0xdd);
        const __m512 later = _mm512_shuffle_f32x4(a[8 + j], a[12 + j], 0x88), last = _mm512_shuffle_f32x4(a[8 + j], a[12 + j], 0xdd);
        _mm512_storeu_ps(y + j * TILE, _mm512_shuffle_f32x4(even, later, 0x88));
        _mm512_storeu_ps(y + (4 + j) * TILE, _mm512_shuffle_f32x4(odd, last, 0x88));
        _mm512_storeu_ps(y + (8 + j) * TILE, _mm512_shuffle_f32x4(even, later, 0xdd));
        _mm512_storeu_ps(y + (12 + j) * TILE, _mm512_shuffle_f32x4(odd, last, 0xdd));
    }
}

/* Two blocks of 16 rows of x with 32 rows of W: each tile that is loaded serves two products. */
static inline void multiply_two_blocks(const uint16_t *left, const uint32_t *pairs, long columns, float *y) {
    float sums[16 * 16] __attribute__((aligned(64)));
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (long c = 0; c < columns; c += 32) {
        _tile_loadd(4, left + c, 2 * columns);
        _tile_loadd(6, pairs + c / 2 * 16, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, pairs + (columns + c) / 2 * 16, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, left + 16 * columns + c, 2 * columns);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums, 64);
    store_transposed(sums, y);
    _tile_stored(1, sums, 64);
    store_transposed(sums, y + 16 * TILE);
    _tile_stored(2, sums, 64);
    store_transposed(sums, y + 16);
    _tile_stored(3, sums, 64);
    store_transposed(sums, y + 16 * TILE + 16);
}
#endif

/* Output columns of up to 64 rows of W in bfloat16. */
static void multiply_bfloat16(const matrix *w, const operand *x, long tile, float *y) {
    const long columns = w->columns, begin = tile * TILE;
    const long end = begin + TILE < w->rows ? begin + TILE : w->rows;
    const uint16_t *data = w->data;
#if defined(TILES)
    if (columns % 32 == 0 && (end - begin) % 16 == 0) {
        float sums[16 * 16] __attribute__((aligned(64)));
        long block = 0;
        if ((end - begin) % 32 == 0 && x->rows >= 32) {
            shape_tiles(16, 16);
            for (; 16 * block + 32 <= x->rows; block += 2)
                for (long n = begin; n < end; n += 32)
                    multiply_two_blocks(data + n * columns, x->pairs + block * 16 * (columns / 2), columns,
                                        y + 16 * block * TILE + n - begin);
        }
        for (; block < x->blocks; block++) {
            const long rows = block_rows(x, block);
            const uint32_t *pairs = x->pairs + block * 16 * (columns / 2);
            shape_tiles(16, rows);
            for (long n = begin; n < end; n += 16) {
                const uint16_t *left = data + n * columns;
                _tile_zero(0);
                for (long c = 0; c < columns; c += 32) {
                    for (int row = 0; row < 16; row++) _mm_prefetch((const char *)(left + row * columns + c) + 1024, _MM_HINT_T0);
                    _tile_loadd(4, left + c, 2 * columns);
                    _tile_loadd(5, pairs + c / 2 * rows, 4 * rows);
                    _tile_dpbf16ps(0, 4, 5);
                }
                _tile_stored(0, sums, 4 * rows);
                for (long row = 0; row < rows; row++)
                    for (long i = 0; i < 16; i++) y[(16 * block + row) * TILE + n - begin + i] = sums[i * rows + row];
            }
        }
        _tile_release();
        return;
    }
#endif
    for (long row = 0; row < x->rows; row++)
        for (long n = begin; n < end; n++) {
            const uint16_t *left = data + n * columns, *right = x->rounded + row * columns;
            float sum = 0;
#pragma omp simd reduction(+ : sum)
            for (long c = 0; c < columns; c++) sum += to_float(left[c]) * to_float(right[c]);
            y[row * TILE + n - begin] = sum;
        }
}

static void multiply_float32(const matrix *w, const operand *x, long tile, float *y) {
    const long columns = w->columns, begin = tile * TILE;
    const long end = begin + TILE < w->rows ? begin + TILE : w->rows;
    for (long n = begin; n < end; n++)
        for (long row = 0; row < x->rows; row++) {
            const float *left = (const float *)w->data + n * columns, *right = x->values + row * columns;
            float sum = 0;
#pragma omp simd reduction(+ : sum)
            for (long c = 0; c < columns; c++) sum += left[c] * right[c];
            y[row * TILE + n - begin] = sum;
        }
}

/* A product of x with one matrix of several. */
typedef struct {
    const matrix *w;
    const operand *x;
    void *out; /* (rows, stride), float32 or bfloat16 */
    long stride;
    int is_float;
} product;

typedef struct {
    const product *products;
    long count;
} product_list;

static long count_tiles(const matrix *w) { return (w->rows + TILE - 1) / TILE; }

static void multiply_item(void *context, long item) {
    const product_list *list = context;
    const product *task = list->products;
    for (; item >= count_tiles(task->w); task++) item -= count_tiles(task->w);
    const matrix *w = task->w;
    const long rows = task->x->rows, begin = item * TILE, width = w->rows - begin < TILE ? w->rows - begin : TILE;
    float few[16 * TILE] __attribute__((aligned(64))), *y = rows <= 16 ? few : malloc(sizeof(float) * rows * TILE);
    if (w->kind >= CODES_4) multiply_codes(w, task->x, item, y);
    else if (w->kind == BFLOAT16) multiply_bfloat16(w, task->x, item, y);
    else multiply_float32(w, task->x, item, y);
    for (long row = 0; row < rows; row++)
        for (long n = 0; n < width; n++) {
            const float value = y[row * TILE + n] + (w->bias ? w->bias[begin + n] : 0);
            const long to = row * task->stride + begin + n;
            if (task->is_float) ((float *)task->out)[to] = value;
            else ((uint16_t *)task->out)[to] = to_bfloat16(value);
        }
    if (y != few) free(y);
}

static void multiply_all(const product *products, long count, long threads) {
    product_list list = {products, count};
    long items = 0;
    for (long i = 0; i < count; i++) items += count_tiles(products[i].w);
    for_each_item(items, threads, multiply_item, &list);
}

/* y = x W^T + b. Returns 0, or 1 without memory. */
int multiply(const matrix *w, const void *x, long x_is_float, long rows, long stride, void *y, long y_is_float, long threads) {
    operand from;
    const int ready = allocate_operand(&from, rows, w->columns);
    if (ready) {
        set_operand(&from, w, x, x_is_float, rows, stride);
        const product task = {w, &from, y, w->rows, y_is_float};
        multiply_all(&task, 1, threads);
    }
    free_operand(&from);
    return !ready;
}

/* Row `index` of the represented matrix. */
static void read_row(const matrix *w, long index, float *to) {
    if (w->kind == FLOAT32) memcpy(to, (const float *)w->data + index * w->columns, sizeof(float) * w->columns);
    else if (w->kind == BFLOAT16)
        for (long c = 0; c < w->columns; c++) to[c] = to_float(((const uint16_t *)w->data)[index * w->columns + c]);
    else {
        const code_tile codes = tile_of(w, index / TILE);
        const long padded = count_tiles(w) * TILE;
        for (long c = 0; c < w->columns; c++) {
            const uint16_t *grid = w->grid + (c / w->group * padded + index) * w->parts;
            to[c] = (read_code(&codes, c, index % TILE) - middle_code(w)) * to_float(grid[0]) + (w->parts == 2 ? to_float(grid[1]) : 0);
        }
    }
}

/* Must be called once, before threads are started. 0 if the system refuses tiles. */
int prepare(void) {
#if defined(TILES)
    return syscall(SYS_arch_prctl, 0x1023, 18) == 0; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */
#else
    return 1;
#endif
}
