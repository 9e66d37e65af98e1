/* Products with codes of 4, 6 or 8 bits, unpacked as they are multiplied: for matrix_product.h, which has the structures. */

/* The planes of a tile of codes. What is multiplied is 128 + code, exact in bfloat16; of 8 bits it is code - 128. */
typedef struct {
    const uint8_t *low, *high; /* (columns, 32); high: (columns, 16) of 6 bits */
    long kind;
} code_tile;

static code_tile tile_of(const matrix *w, long tile) {
    const long high = w->kind == CODES_8 ? 32 : w->kind == CODES_6 ? 16 : 0;
    return (code_tile){(const uint8_t *)w->data + tile * w->columns * 32, w->high + tile * w->columns * high, w->kind};
}

static int middle_code(const matrix *w) { return w->kind == CODES_8 ? 128 : w->kind == CODES_6 ? 32 : 8; }

static int read_code(const code_tile *t, long column, long row) {
    const int low = t->low[column * 32 + row % 32] >> row / 32 * 4 & 15;
    if (t->kind == CODES_8) return low | (t->high[column * 32 + row % 32] >> row / 32 * 4 & 15) << 4;
    if (t->kind == CODES_6) return low | (t->high[column * 16 + row % 16] >> row / 16 * 2 & 3) << 4;
    return low;
}

#if defined(WIDE)
/* What is multiplied of two columns, (4 times 16 rows): the first column's in the upper halves of `even`, the second's in `odd`,
   whose lower halves are zero: they are float32, too. */
static inline __attribute__((always_inline)) void read_columns(const uint8_t *low, const uint8_t *high, const long kind,
                                                               __m512i *even, __m512i *odd) {
    const __m512i first = _mm512_set_epi32(0x2f2f0f0f, 0x2e2e0e0e, 0x2d2d0d0d, 0x2c2c0c0c, 0x2b2b0b0b, 0x2a2a0a0a, 0x29290909,
                                           0x28280808, 0x27270707, 0x26260606, 0x25250505, 0x24240404, 0x23230303, 0x22220202,
                                           0x21210101, 0x20200000); /* bytes 0 to 15 of each column, twice */
    const __m512i second = _mm512_add_epi8(first, _mm512_set1_epi8(16));
    const __m512i both = _mm512_loadu_si512(low);
    const __m512i a = _mm512_permutexvar_epi8(first, both), b = _mm512_permutexvar_epi8(second, both);
    _mm_prefetch((const char *)low + 2048, _MM_HINT_T0);
    if (kind == CODES_8) {
        const __m512i upper = _mm512_loadu_si512(high);
        const __m512i c = _mm512_permutexvar_epi8(first, upper), d = _mm512_permutexvar_epi8(second, upper);
        const __m512i magic = _mm512_set1_epi32(0x4b000000), four = _mm512_set1_epi32(15), next = _mm512_set1_epi32(240);
        const __m512 bias = _mm512_set1_ps(8388608 + 128);
        _mm_prefetch((const char *)high + 2048, _MM_HINT_T0);
#define JOIN(l, h) \
    (__m512i) _mm512_sub_ps((__m512)_mm512_ternarylogic_epi32(h, next, _mm512_ternarylogic_epi32(l, four, magic, 0xea), 0xea), bias)
        even[0] = JOIN(a, _mm512_slli_epi32(c, 4)), odd[0] = JOIN(_mm512_srli_epi32(a, 16), _mm512_srli_epi32(c, 12));
        even[1] = JOIN(b, _mm512_slli_epi32(d, 4)), odd[1] = JOIN(_mm512_srli_epi32(b, 16), _mm512_srli_epi32(d, 12));
        even[2] = JOIN(_mm512_srli_epi32(a, 4), c), odd[2] = JOIN(_mm512_srli_epi32(a, 20), _mm512_srli_epi32(c, 16));
        even[3] = JOIN(_mm512_srli_epi32(b, 4), d), odd[3] = JOIN(_mm512_srli_epi32(b, 20), _mm512_srli_epi32(d, 16));
#undef JOIN
        return;
    }
    const __m512i mask = _mm512_set1_epi32(0xf0000), magic = _mm512_set1_epi32(0x43000000);
    __m512i more[8] = {magic, magic, magic, magic, magic, magic, magic, magic}; /* of even and odd columns in turn */
    if (kind == CODES_6) { /* byte i of a column: rows i, i + 16, i + 32 and i + 48 */
        const __m512i quarter = _mm512_sub_epi8(first, _mm512_and_si512(_mm512_srli_epi16(first, 1), _mm512_set1_epi8(16)));
        const __m512i bits = _mm512_set1_epi32(0x300000);
        const __m512i c = _mm512_permutexvar_epi8(quarter, _mm512_castsi256_si512(_mm256_loadu_si256((const void *)high)));
        _mm_prefetch((const char *)high + 1024, _MM_HINT_T0);
        const __m512i shifted[8] = {_mm512_slli_epi32(c, 20), _mm512_slli_epi32(c, 4), _mm512_slli_epi32(c, 18), _mm512_slli_epi32(c, 2),
                                    _mm512_slli_epi32(c, 16), c, _mm512_slli_epi32(c, 14), _mm512_srli_epi32(c, 2)};
        for (int i = 0; i < 8; i++) more[i] = _mm512_ternarylogic_epi32(shifted[i], bits, magic, 0xea); /* a & b | c */
    }
    even[0] = _mm512_ternarylogic_epi32(_mm512_slli_epi32(a, 16), mask, more[0], 0xea);
    odd[0] = _mm512_ternarylogic_epi32(a, mask, more[1], 0xea);
    even[1] = _mm512_ternarylogic_epi32(_mm512_slli_epi32(b, 16), mask, more[2], 0xea);
    odd[1] = _mm512_ternarylogic_epi32(b, mask, more[3], 0xea);
    even[2] = _mm512_ternarylogic_epi32(_mm512_slli_epi32(a, 12), mask, more[4], 0xea);
    odd[2] = _mm512_ternarylogic_epi32(_mm512_srli_epi32(a, 4), mask, more[5], 0xea);
    even[3] = _mm512_ternarylogic_epi32(_mm512_slli_epi32(b, 12), mask, more[6], 0xea);
    odd[3] = _mm512_ternarylogic_epi32(_mm512_srli_epi32(b, 4), mask, more[7], 0xea);
}

static inline __attribute__((always_inline)) void unpack_kind(const code_tile *t, long first, long count, const long kind,
                                                              uint16_t *to) {
    const int high = kind == CODES_8 ? 32 : 16;
    for (long c = first; c < first + count; c += 2, to += 128) {
        __m512i even[4], odd[4];
        read_columns(t->low + c * 32, t->high + c * high, kind, even, odd);
        for (int v = 0; v < 4; v++) _mm512_store_si512(to + 32 * v, _mm512_or_si512(_mm512_srli_epi32(even[v], 16), odd[v]));
    }
}
#endif

/* Columns of a tile as bfloat16, pairs of columns interleaved: (count / 2, 64, 2). */
static inline void unpack_codes(const code_tile *t, long first, long count, uint16_t *to) {
#if defined(WIDE)
    if (t->kind == CODES_4) unpack_kind(t, first, count, CODES_4, to);
    else if (t->kind == CODES_6) unpack_kind(t, first, count, CODES_6, to);
    else unpack_kind(t, first, count, CODES_8, to);
#else
    for (long c = 0; c < count; c++)
        for (long row = 0; row < TILE; row++)
            to[c / 2 * 128 + 2 * row + c % 2] =
                to_bfloat16((float)(read_code(t, first + c, row) + (t->kind == CODES_8 ? -128 : 128)));
#endif
}

/* Columns that are unpacked 8 at a time, between other instructions. */
typedef struct {
    const code_tile *codes;
    uint16_t *to;
    long first, next, pieces;
} unpacking;

static inline void unpack_piece(unpacking *job) {
    if (job->next >= job->pieces) return;
    unpack_codes(job->codes, job->first + 8 * job->next, 8, job->to + 8 * job->next * TILE);
    job->next++;
}

/* sums (rows, 64) of one block of up to 16 rows and of a group. Tiles are multiplied while `job` goes on. */
static inline void multiply_group(const operand *x, long block, long first, long count, const uint16_t *unpacked, float *sums,
                                  unpacking *job) {
    const long rows = block_rows(x, block);
    const uint16_t *from = x->rounded + 16 * block * x->columns + first;
#if defined(TILES)
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
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
        for (long c = 0; c < count; c += 2) {
            int pair;
            memcpy(&pair, from + c, 4);
            for (int v = 0; v < 4; v++)
                total[v] = _mm512_dpbf16_ps(total[v], (__m512bh)_mm512_set1_epi32(pair),
                                            (__m512bh)_mm512_load_si512(unpacked + c * 64 + 32 * v));
        }
        for (int v = 0; v < 4; v++) _mm512_storeu_ps(sums + 16 * v, total[v]);
    }
#else
    for (long row = 0; row < rows; row++, from += x->columns, sums += 64) {
        memset(sums, 0, 64 * sizeof(float));
        for (long c = 0; c < count; c++) {
            const uint16_t *right = unpacked + c / 2 * 128 + c % 2;
            const float factor = to_float(from[c]);
            for (long n = 0; n < 64; n++) sums[n] += factor * to_float(right[2 * n]);
        }
    }
#endif
    (void)job;
}

/* Scale of each row of a tile and group, and what is added for each unit of the sum of x. */
static void read_grid(const matrix *w, long tile, long group, float *scale, float *offset) {
    const long padded = (w->rows + TILE - 1) / TILE * TILE, parts = w->parts;
    const uint16_t *grid = w->grid + (group * padded + tile * TILE) * parts;
    const float excess = w->kind == CODES_8 ? 0 : 128 + middle_code(w);
    if (parts == 1)
        for (int n = 0; n < TILE; n++) scale[n] = to_float(grid[n]), offset[n] = -excess * scale[n];
    else
        for (int n = 0; n < TILE; n++) {
            scale[n] = to_float(grid[2 * n]);
            offset[n] = to_float(grid[2 * n + 1]) - excess * scale[n];
        }
}

/* One function for all: other code could round in another order. */
static __attribute__((noinline)) void add_group(float *y, const float *scale, const float *sums, const float *offset, float sum) {
    for (int n = 0; n < TILE; n++) y[n] += scale[n] * sums[n] + offset[n] * sum;
}

#if defined(TILES)
/* `multiply_codes` for one row: the sums of TDPBF16PS in its order, of which a tile would compute 16 in no less time. */
static inline __attribute__((always_inline)) void multiply_codes_row(const matrix *w, const operand *x, long tile, const long kind,
                                                                     float *y) {
    const code_tile codes = tile_of(w, tile);
    const int high = kind == CODES_8 ? 32 : 16;
    float sums[TILE] __attribute__((aligned(64))), scale[TILE], offset[TILE];
    memset(y, 0, sizeof(float) * TILE);
    for (long g = 0; g < w->columns / w->group; g++) {
        __m512 total[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
        for (long begin = g * w->group; begin < (g + 1) * w->group; begin += 32) {
            __m512 first[4], second[4];
            for (int v = 0; v < 4; v++) first[v] = second[v] = _mm512_setzero_ps();
            for (long c = begin; c < begin + 32; c += 2) {
                __m512i even[4], odd[4];
                read_columns(codes.low + c * 32, codes.high + c * high, kind, even, odd);
                const __m512 a = _mm512_set1_ps(x->values[c]), b = _mm512_set1_ps(x->values[c + 1]);
                for (int v = 0; v < 4; v++) {
                    first[v] = _mm512_fmadd_ps(a, (__m512)even[v], first[v]);
                    second[v] = _mm512_fmadd_ps(b, (__m512)odd[v], second[v]);
                }
            }
            for (int v = 0; v < 4; v++) total[v] = _mm512_add_ps(total[v], _mm512_add_ps(first[v], second[v]));
        }
        for (int v = 0; v < 4; v++) _mm512_store_ps(sums + 16 * v, total[v]);
        read_grid(w, tile, g, scale, offset);
        add_group(y, scale, sums, offset, x->sums[g]);
    }
}
#endif

/* Output columns of a tile of codes, for all rows; y (rows, 64).

   Some groups are multiplied while the next ones are unpacked, then scaled: each step finds what it reads in the cache, not on
   its way there. */
static void multiply_codes(const matrix *w, const operand *x, long tile, float *y) {
#if defined(TILES)
    if (x->rows == 1) {
        if (w->kind == CODES_4) multiply_codes_row(w, x, tile, CODES_4, y);
        else if (w->kind == CODES_6) multiply_codes_row(w, x, tile, CODES_6, y);
        else multiply_codes_row(w, x, tile, CODES_8, y);
        return;
    }
    shape_tiles(x->rows < 16 ? x->rows : 16, 16);
#endif
    uint16_t unpacked[2][SPAN * TILE] __attribute__((aligned(64)));
    float sums[SPAN / 32 * 16 * TILE] __attribute__((aligned(64))), scale[TILE], offset[TILE];
    const long groups = w->columns / w->group, span = w->group < 128 ? 128 / w->group : 1;
    const code_tile codes = tile_of(w, tile);
    memset(y, 0, sizeof(float) * x->rows * TILE);
    unpacking job = {&codes, unpacked[0], 0, 0, (groups < span ? groups : span) * w->group / 8};
    while (job.next < job.pieces) unpack_piece(&job);
    for (long begin = 0; begin < groups; begin += span) {
        const long count = groups - begin < span ? groups - begin : span, first = begin * w->group;
        const long left = groups - begin - count < span ? groups - begin - count : span;
        const uint16_t *from = job.to;
        job = (unpacking){&codes, unpacked[from == unpacked[0]], first + count * w->group, 0, left * w->group / 8};
        for (long block = 0; block < x->blocks; block++) {
            const long rows = block_rows(x, block);
            for (long g = 0; g < count; g++)
                multiply_group(x, block, first + g * w->group, w->group, from + g * w->group * TILE, sums + g * 16 * TILE, &job);
            for (long g = 0; g < count; g++) {
                read_grid(w, tile, begin + g, scale, offset);
                for (long row = 0; row < rows; row++)
                    add_group(y + (16 * block + row) * TILE, scale, sums + (g * 16 + row) * TILE, offset,
                              x->sums[(16 * block + row) * groups + begin + g]);
            }
        }
        while (job.next < job.pieces) unpack_piece(&job);
    }
#if defined(TILES)
    _tile_release();
#endif
}
