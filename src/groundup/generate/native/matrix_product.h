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
    float *values;      /* float32 */
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
        for (long g = 0; g < columns / w->group; g++) {
            float sum = 0;
            for (long c = g * w->group; c < (g + 1) * w->group; c++) sum += to_float(rounded[c]);
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

/* Codes of `count` columns from `first` of a tile as bfloat16 128 + code, pairs of columns interleaved: (count / 2, 64, 2).
   Upper halves of codes: 2048 + 16 code. `upper`: bits 4 and 5, or NULL. */
static inline __attribute__((always_inline)) void unpack_codes(const uint8_t *codes, const uint8_t *upper, long first, long count,
                                                               uint16_t magic, uint16_t *to) {
    codes += first * 32;
    upper = upper ? upper + first * 16 : 0;
#if defined(WIDE)
    uint8_t positions[64];
    for (int i = 0; i < 64; i++) positions[i] = i / 4 + (i & 2 ? 32 : 0);
    const __m512i head = _mm512_loadu_si512(positions), tail = _mm512_add_epi8(head, _mm512_set1_epi8(16));
    const __m512i mask = _mm512_set1_epi16(15);
    const __m512i quarter = _mm512_sub_epi8(head, _mm512_and_si512(_mm512_srli_epi16(head, 1), _mm512_set1_epi8(16)));
    __m512i base = _mm512_set1_epi16(magic), base_1 = base, base_2 = base, base_3 = base;
    for (long c = 0; c < count; c += 2, codes += 64, to += 128) {
        const __m512i both = _mm512_loadu_si512(codes);
        _mm_prefetch((const char *)codes + 2048, _MM_HINT_T0);
        const __m512i a = _mm512_permutexvar_epi8(head, both), b = _mm512_permutexvar_epi8(tail, both);
        if (upper) { /* byte i of a column: rows i, i + 16, i + 32 and i + 48 */
            const __m512i bits = _mm512_set1_epi16(48), plain = _mm512_set1_epi16(magic);
            const __m512i c = _mm512_permutexvar_epi8(quarter, _mm512_castsi256_si512(_mm256_loadu_si256((const void *)upper)));
            upper += 32;
            _mm_prefetch((const char *)upper + 1024, _MM_HINT_T0);
            base = _mm512_ternarylogic_epi32(_mm512_slli_epi16(c, 4), bits, plain, 0xea);
            base_1 = _mm512_ternarylogic_epi32(_mm512_slli_epi16(c, 2), bits, plain, 0xea);
            base_2 = _mm512_ternarylogic_epi32(c, bits, plain, 0xea);
            base_3 = _mm512_ternarylogic_epi32(_mm512_srli_epi16(c, 2), bits, plain, 0xea);
        }
        _mm512_store_si512(to, _mm512_ternarylogic_epi32(a, mask, base, 0xea)); /* a & mask | base */
        _mm512_store_si512(to + 32, _mm512_ternarylogic_epi32(b, mask, base_1, 0xea));
        _mm512_store_si512(to + 64, _mm512_ternarylogic_epi32(_mm512_srli_epi16(a, 4), mask, base_2, 0xea));
        _mm512_store_si512(to + 96, _mm512_ternarylogic_epi32(_mm512_srli_epi16(b, 4), mask, base_3, 0xea));
    }
#else
    for (long c = 0; c < count; c++)
        for (long d = 0; d < 32; d++) {
            uint16_t *pair = to + c / 2 * 128 + 2 * d + c % 2;
            const int bits = upper ? upper[c * 16 + d % 16] >> d / 16 * 2 : 0;
            pair[0] = magic | (bits & 3) << 4 | (codes[c * 32 + d] & 15);
            pair[64] = magic | (bits >> 4 & 3) << 4 | (codes[c * 32 + d] >> 4);
        }
#endif
}

/* Codes that are unpacked 8 columns of a plane at a time, between other instructions. */
typedef struct {
    const uint8_t *codes[2], *upper;
    uint16_t *to;
    long planes, first, next, pieces;
} unpacking;

static inline void unpack_piece(unpacking *job) {
    if (job->next >= job->pieces) return;
    const long plane = job->next % job->planes, column = job->next / job->planes * 8;
    uint16_t *to = job->to + (plane * SPAN + column) * TILE;
    if (job->upper) unpack_codes(job->codes[0], job->upper, job->first + column, 8, 0x4300, to);
    else unpack_codes(job->codes[plane], 0, job->first + column, 8, plane ? 0x4500 : 0x4300, to);
    job->next++;
}

/* sums (rows, 64) of one block of up to 16 rows and all planes of a group. Tiles are multiplied while `job` goes on. */
static inline void multiply_group(const operand *x, long block, long first, long count, const uint16_t *unpacked, int planes,
                                  float *sums, unpacking *job) {
    const long rows = block_rows(x, block);
    const uint16_t *from = x->rounded + 16 * block * x->columns + first;
#if defined(TILES)
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int plane = 0; plane < planes; plane++, unpacked += SPAN * TILE)
        for (long c = 0; c < count; c += 32) {
            const uint16_t *right = unpacked + c * 64;
            _tile_loadd(4, from + c, 2 * x->columns);
            unpack_piece(job);
            _tile_loadd(5, right, 256);
            _tile_dpbf16ps(0, 4, 5);
            unpack_piece(job);
            _tile_loadd(6, right + 32, 256);
            _tile_dpbf16ps(1, 4, 6);
            unpack_piece(job);
            _tile_loadd(7, right + 64, 256);
            _tile_dpbf16ps(2, 4, 7);
            unpack_piece(job);
            _tile_loadd(5, right + 96, 256);
            _tile_dpbf16ps(3, 4, 5);
        }
    _tile_stored(0, sums, 256);
    _tile_stored(1, sums + 16, 256);
    _tile_stored(2, sums + 32, 256);
    _tile_stored(3, sums + 48, 256);
    (void)rows;
#elif defined(WIDE)
    for (long row = 0; row < rows; row++, from += x->columns, sums += 64) {
        __m512 total[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
        for (int plane = 0; plane < planes; plane++)
            for (long c = 0; c < count; c += 2) {
                const uint16_t *right = unpacked + plane * SPAN * TILE + c * 64;
                int pair;
                memcpy(&pair, from + c, 4);
                for (int v = 0; v < 4; v++)
                    total[v] = _mm512_dpbf16_ps(total[v], (__m512bh)_mm512_set1_epi32(pair), (__m512bh)_mm512_load_si512(right + 32 * v));
            }
        for (int v = 0; v < 4; v++) _mm512_storeu_ps(sums + 16 * v, total[v]);
    }
#else
    for (long row = 0; row < rows; row++, from += x->columns, sums += 64) {
        memset(sums, 0, 64 * sizeof(float));
        for (int plane = 0; plane < planes; plane++)
            for (long c = 0; c < count; c++) {
                const uint16_t *right = unpacked + plane * SPAN * TILE + c / 2 * 128 + c % 2;
                const float factor = to_float(from[c]);
                for (long n = 0; n < 64; n++) sums[n] += factor * to_float(right[2 * n]);
            }
    }
#endif
}

static int middle_code(const matrix *w) { return w->kind == CODES_8 ? 128 : w->kind == CODES_6 ? 32 : 8; }

/* Output columns of a tile of codes, for all rows; y (rows, 64).

   Some groups are multiplied while the next ones are unpacked, then scaled: each step finds what it reads in the cache, not on
   its way there. */
static void multiply_codes(const matrix *w, const operand *x, long tile, float *y) {
    uint16_t unpacked[2][2 * SPAN * TILE] __attribute__((aligned(64)));
    float sums[SPAN / 32 * 16 * TILE] __attribute__((aligned(64))), scale[TILE], offset[TILE];
    const int planes = w->kind == CODES_8 ? 2 : 1, parts = (int)w->parts;
    const long padded = (w->rows + TILE - 1) / TILE * TILE, groups = w->columns / w->group, span = w->group < 128 ? 128 / w->group : 1;
    const uint8_t *low = (const uint8_t *)w->data + tile * w->columns * 32, *high = w->high + tile * w->columns * 32;
    const uint8_t *upper = w->kind == CODES_6 ? w->high + tile * w->columns * 16 : 0;
    /* scale (code - middle) + offset, from 128 + code, or 2048 + 16 high + 128 + low */
    const float excess = (planes == 2 ? 2176 : 128) + middle_code(w);
    memset(y, 0, sizeof(float) * x->rows * TILE);
#if defined(TILES)
    shape_tiles(x->rows < 16 ? x->rows : 16, 16);
#endif
    unpacking job = {{low, high}, upper, unpacked[0], planes, 0, 0, planes * (groups < span ? groups : span) * w->group / 8};
    while (job.next < job.pieces) unpack_piece(&job);
    for (long begin = 0; begin < groups; begin += span) {
        const long count = groups - begin < span ? groups - begin : span, first = begin * w->group;
        const long left = groups - begin - count < span ? groups - begin - count : span;
        const uint16_t *from = job.to;
        job = (unpacking){{low, high}, upper, unpacked[from == unpacked[0]], planes, first + count * w->group, 0, planes * left * w->group / 8};
        for (long block = 0; block < x->blocks; block++) {
            const long rows = block_rows(x, block);
            for (long g = 0; g < count; g++)
                multiply_group(x, block, first + g * w->group, w->group, from + g * w->group * TILE, planes, sums + g * 16 * TILE, &job);
            for (long g = 0; g < count; g++) {
                const uint16_t *grid = w->grid + ((begin + g) * padded + tile * TILE) * parts;
                if (parts == 1)
                    for (int n = 0; n < TILE; n++) scale[n] = to_float(grid[n]), offset[n] = -excess * scale[n];
                else
                    for (int n = 0; n < TILE; n++) {
                        scale[n] = to_float(grid[2 * n]);
                        offset[n] = to_float(grid[2 * n + 1]) - excess * scale[n];
                    }
                for (long row = 0; row < rows; row++) {
                    const float sum = x->sums[(16 * block + row) * groups + begin + g];
                    float *to = y + (16 * block + row) * TILE, *total = sums + (g * 16 + row) * TILE;
                    for (int n = 0; n < TILE; n++) to[n] += scale[n] * total[n] + offset[n] * sum;
                }
            }
        }
        while (job.next < job.pieces) unpack_piece(&job);
    }
#if defined(TILES)
    _tile_release();
#endif
}

/* Output columns of up to 64 rows of W in bfloat16. */
static void multiply_bfloat16(const matrix *w, const operand *x, long tile, float *y) {
    const long columns = w->columns, begin = tile * TILE;
    const long end = begin + TILE < w->rows ? begin + TILE : w->rows;
    const uint16_t *data = w->data;
#if defined(TILES)
    if (columns % 32 == 0 && (end - begin) % 16 == 0) {
        float sums[16 * 16] __attribute__((aligned(64)));
        for (long block = 0; block < x->blocks; block++) {
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
        const long padded = count_tiles(w) * TILE, lane = index % TILE;
        const int shift = lane < 32 ? 0 : 4;
        const long begin = index / TILE * w->columns * 32 + lane % 32;
        const uint8_t *low = w->data, *quarters = w->high + index / TILE * w->columns * 16 + lane % 16;
        for (long c = 0; c < w->columns; c++) {
            const uint16_t *grid = w->grid + (c / w->group * padded + index) * w->parts;
            int code = low[begin + c * 32] >> shift & 15;
            if (w->kind == CODES_8) code |= (w->high[begin + c * 32] >> shift & 15) << 4;
            if (w->kind == CODES_6) code |= (quarters[c * 16] >> lane / 16 * 2 & 3) << 4;
            to[c] = (code - middle_code(w)) * to_float(grid[0]) + (w->parts == 2 ? to_float(grid[1]) : 0);
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
