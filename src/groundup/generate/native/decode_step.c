/* One step of a decoder-only model: hidden states of a few tokens, each the next one of its sequence, from embedding to logits.

   Rows are independent: row r reads and writes the keys and values of its own sequence, after those of earlier rows of the same
   sequence. The residual stream is in float32. */

#include "thread_pool.h"
#include "matrix_product.h"
#include <math.h>

enum { SILU, GELU, GELU_TANH };
#define KEYS_AT_ONCE 64
#define MAX_HEAD 256

typedef struct {
    matrix query, key, value, output, gate, up, down;
    const float *attention_norm, *attention_post_norm, *feed_forward_norm, *feed_forward_post_norm; /* NULL: none */
    const float *query_norm, *key_norm;                                                              /* of each head */
    const float *frequencies; /* (rotary / 2), NULL without rotation */
    float magnitude;          /* of cosine and sine */
    long window;              /* keys that a query attends to; 0: all */
} block_weights;

typedef struct {
    long num_blocks, hidden, heads, kv_heads, head_dim, rotary, intermediate, activation;
    float eps, score_scale, score_cap, embedding_scale, residual_scale, logit_scale, logit_cap; /* caps: 0 for none */
    matrix embedding, head;
    const float *final_norm;
    const block_weights *blocks;
} decoder_weights;

typedef struct {
    long rows, threads, is_float; /* is_float: keys and values in float32, else bfloat16 */
    long page_size, table_width, page_stride, block_stride, head_stride, token_stride; /* strides in numbers */
    const int64_t *tokens, *positions, *sequences, *tables; /* tables (sequences, width): pages in the order of tokens */
    void *keys, *values;
} step_input;

/* Numbers of a step; (rows, width) each. */
typedef struct {
    const decoder_weights *weights;
    const step_input *input;
    const block_weights *block;
    long index; /* of the block */
    float *x, *normed, *query, *key, *value, *attended, *gate, *up, *added;
    operand operands[3];
} step_state;

static inline float exponential(float x) { /* relative error 2e-7 (Cephes' polynomial), without a library call: vectorized */
    x = x < -87 ? -87 : x > 88 ? 88 : x;
    const float n = x * 1.44269504f + 12582912.0f - 12582912.0f;
    const float f = x - n * 0.693359375f + n * 2.12194440e-4f;
    float y = 1.9875691500e-4f;
    y = y * f + 1.3981999507e-3f;
    y = y * f + 8.3334519073e-3f;
    y = y * f + 4.1665795894e-2f;
    y = y * f + 1.6666665459e-1f;
    y = y * f + 5.0000001201e-1f;
    y = y * f * f + f + 1;
    const int32_t bits = ((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, 4);
    return y * power;
}

static float dot(const float *a, const float *b, long count) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (long i = 0; i < count; i++) sum += a[i] * b[i];
    return sum;
}

static void root_mean_square_norm(const float *x, const float *weight, float *to, long count, float eps) {
    const float factor = 1 / sqrtf(dot(x, x, count) / count + eps);
    for (long i = 0; i < count; i++) to[i] = x[i] * factor * weight[i];
}

static void normalize_rows(const step_state *s, const float *from, const float *weight, float *to, long width) {
    for (long row = 0; row < s->input->rows; row++) {
        if (weight) root_mean_square_norm(from + row * width, weight, to + row * width, width, s->weights->eps);
        else if (to != from) memcpy(to + row * width, from + row * width, sizeof(float) * width);
    }
}

/* Products of the same rows with some matrices; operands are made once for matrices that read them alike. */
static void multiply_rows(step_state *s, const float *x, long count, const matrix *const *matrices, float *const *outs) {
    product products[3];
    for (long i = 0; i < count; i++) {
        const matrix *w = matrices[i];
        long same = 0;
        while (same < i && (matrices[same]->kind != w->kind || matrices[same]->group != w->group || matrices[same]->order != w->order))
            same++;
        if (same == i) set_operand(&s->operands[i], w, x, 1, s->input->rows, w->columns);
        products[i] = (product){w, same == i ? &s->operands[i] : products[same].x, outs[i], w->rows, 1};
    }
    multiply_all(products, count, s->input->threads);
}

static void rotate_head(const step_state *s, float *head, long position) {
    const long half = s->weights->rotary / 2;
    for (long i = 0; i < half; i++) {
        const float angle = position * s->block->frequencies[i];
        const float cosine = cosf(angle) * s->block->magnitude, sine = sinf(angle) * s->block->magnitude;
        const float a = head[i], b = head[i + half];
        head[i] = a * cosine - b * sine;
        head[i + half] = b * cosine + a * sine;
    }
}

/* Where keys and values of a token begin. */
static inline long locate(const step_state *s, long row, long head, long position) {
    const step_input *in = s->input;
    const long page = in->tables[in->sequences[row] * in->table_width + position / in->page_size];
    return page * in->page_stride + s->index * in->block_stride + head * in->head_stride + position % in->page_size * in->token_stride;
}

static void store(const step_state *s, void *to, long at, const float *from, long count) {
    if (s->input->is_float) memcpy((float *)to + at, from, sizeof(float) * count);
    else
        for (long i = 0; i < count; i++) ((uint16_t *)to)[at + i] = to_bfloat16(from[i]);
}

/* Keys or values of one token. */
static inline const float *load(const step_state *s, const void *from, long at, float *buffer, long count) {
    if (s->input->is_float) return (const float *)from + at;
    const uint16_t *stored = (const uint16_t *)from + at;
    for (long i = 0; i < count; i++) buffer[i] = to_float(stored[i]);
    return buffer;
}

/* Queries and keys of a row normalized and rotated, keys and values stored. */
static void place_row(void *context, long row) {
    step_state *s = context;
    const decoder_weights *w = s->weights;
    const step_input *in = s->input;
    const long width = w->head_dim, position = in->positions[row];
    for (long head = 0; head < w->heads + w->kv_heads; head++) {
        const int is_key = head >= w->heads;
        float *x = is_key ? s->key + (row * w->kv_heads + head - w->heads) * width : s->query + (row * w->heads + head) * width;
        const float *norm = is_key ? s->block->key_norm : s->block->query_norm;
        if (norm) root_mean_square_norm(x, norm, x, width, w->eps);
        if (s->block->frequencies) rotate_head(s, x, position);
    }
    for (long head = 0; head < w->kv_heads; head++) {
        const long at = locate(s, row, head, position);
        store(s, in->keys, at, s->key + (row * w->kv_heads + head) * width, width);
        store(s, in->values, at, s->value + (row * w->kv_heads + head) * width, width);
    }
}

/* Attention of one row and key head: softmax over some keys at a time, rescaled as larger scores come (Milakov & Gimelshein 2018). */
static void attend(void *context, long item) {
    const step_state *s = context;
    const decoder_weights *w = s->weights;
    const step_input *in = s->input;
    const long row = item / w->kv_heads, kv_head = item % w->kv_heads, width = w->head_dim, shared = w->heads / w->kv_heads;
    const long end = in->positions[row] + 1, window = s->block->window;
    float buffer[MAX_HEAD], scores[KEYS_AT_ONCE];
    long places[KEYS_AT_ONCE];
    for (long head = kv_head * shared; head < (kv_head + 1) * shared; head++) {
        const float *query = s->query + (row * w->heads + head) * width;
        float *out = s->attended + (row * w->heads + head) * width, best = -INFINITY, total = 0;
        memset(out, 0, sizeof(float) * width);
        for (long begin = window && end > window ? end - window : 0; begin < end; begin += KEYS_AT_ONCE) {
            const long count = end - begin < KEYS_AT_ONCE ? end - begin : KEYS_AT_ONCE;
            float largest = best;
            for (long i = 0; i < count; i++) {
                const int same_page = i && (begin + i) % in->page_size;
                places[i] = same_page ? places[i - 1] + in->token_stride : locate(s, row, kv_head, begin + i);
                scores[i] = w->score_scale * dot(query, load(s, in->keys, places[i], buffer, width), width);
                if (w->score_cap > 0) scores[i] = w->score_cap * tanhf(scores[i] / w->score_cap);
                if (scores[i] > largest) largest = scores[i];
            }
            const float factor = exponential(best - largest);
            best = largest, total *= factor;
            for (long k = 0; k < width; k++) out[k] *= factor;
            for (long i = 0; i < count; i++) {
                const float *value = load(s, in->values, places[i], buffer, width);
                const float share = exponential(scores[i] - best);
                total += share;
                for (long k = 0; k < width; k++) out[k] += share * value[k];
            }
        }
        for (long k = 0; k < width; k++) out[k] /= total;
    }
}

static void gate_row(void *context, long item) {
    const step_state *s = context;
    const long count = s->weights->intermediate / 4 + 1, begin = item % 4 * count, row = item / 4 * s->weights->intermediate;
    const long end = begin + count < s->weights->intermediate ? begin + count : s->weights->intermediate;
    float *gate = s->gate + row;
    const float *up = s->up + row;
    if (s->weights->activation == SILU)
        for (long i = begin; i < end; i++) gate[i] = gate[i] / (1 + exponential(-gate[i])) * up[i];
    else if (s->weights->activation == GELU)
        for (long i = begin; i < end; i++) gate[i] = 0.5f * gate[i] * (1 + erff(gate[i] * 0.70710678f)) * up[i];
    else
        for (long i = begin; i < end; i++) {
            const float inner = 0.79788456f * (gate[i] + 0.044715f * gate[i] * gate[i] * gate[i]);
            gate[i] = gate[i] / (1 + exponential(-2 * inner)) * up[i];
        }
}

static void add_rows(step_state *s, const float *norm) {
    const long count = s->input->rows * s->weights->hidden;
    normalize_rows(s, s->added, norm, s->added, s->weights->hidden);
    for (long i = 0; i < count; i++) s->x[i] += s->weights->residual_scale * s->added[i];
}

static void run_block(step_state *s) {
    const block_weights *b = s->block;
    const decoder_weights *w = s->weights;
    const long rows = s->input->rows, threads = s->input->threads;
    normalize_rows(s, s->x, b->attention_norm, s->normed, w->hidden);
    multiply_rows(s, s->normed, 3, (const matrix *const[]){&b->query, &b->key, &b->value}, (float *const[]){s->query, s->key, s->value});
    for_each_item(rows, rows < 4 ? 1 : threads, place_row, s);
    for_each_item(rows * w->kv_heads, threads, attend, s);
    multiply_rows(s, s->attended, 1, (const matrix *const[]){&b->output}, (float *const[]){s->added});
    add_rows(s, b->attention_post_norm);
    normalize_rows(s, s->x, b->feed_forward_norm, s->normed, w->hidden);
    multiply_rows(s, s->normed, 2, (const matrix *const[]){&b->gate, &b->up}, (float *const[]){s->gate, s->up});
    for_each_item(4 * rows, rows * w->intermediate < 16384 ? 1 : threads, gate_row, s);
    multiply_rows(s, s->gate, 1, (const matrix *const[]){&b->down}, (float *const[]){s->added});
    add_rows(s, b->feed_forward_post_norm);
}

static long largest(long a, long b) { return a > b ? a : b; }

/* Logits of the last `wanted` rows, float32 (wanted, vocabulary). Returns 0, or 1 without memory. */
int decode_step(const decoder_weights *w, const step_input *in, long wanted, float *logits) {
    const long rows = in->rows, attended = w->heads * w->head_dim, keys = w->kv_heads * w->head_dim;
    const long widths[9] = {w->hidden, w->hidden, attended, keys, keys, attended, w->intermediate, w->intermediate, w->hidden};
    const long widest = largest(largest(w->hidden, attended), w->intermediate);
    long total = 0;
    for (int i = 0; i < 9; i++) total += rows * widths[i];
    float *memory = malloc(sizeof(float) * total);
    step_state s = {.weights = w, .input = in};
    int ready = memory != 0;
    for (int i = 0; i < 3; i++) ready &= allocate_operand(&s.operands[i], rows, widest);
    if (ready) {
        float **parts[9] = {&s.x, &s.normed, &s.query, &s.key, &s.value, &s.attended, &s.gate, &s.up, &s.added}, *next = memory;
        for (int i = 0; i < 9; next += rows * widths[i++]) *parts[i] = next;
        for (long row = 0; row < rows; row++) {
            read_row(&w->embedding, in->tokens[row], s.x + row * w->hidden);
            for (long i = 0; i < w->hidden; i++) s.x[row * w->hidden + i] *= w->embedding_scale;
        }
        for (s.index = 0; s.index < w->num_blocks; s.index++) {
            s.block = &w->blocks[s.index];
            run_block(&s);
        }
        normalize_rows(&s, s.x, w->final_norm, s.normed, w->hidden);
        for (long i = 0; i < rows * w->hidden; i++) s.normed[i] *= w->logit_scale;
        set_operand(&s.operands[0], &w->head, s.normed + (rows - wanted) * w->hidden, 1, wanted, w->hidden);
        const product last = {&w->head, &s.operands[0], logits, w->head.rows, 1};
        multiply_all(&last, 1, in->threads);
        if (w->logit_cap > 0)
            for (long i = 0; i < wanted * w->head.rows; i++) logits[i] = w->logit_cap * tanhf(logits[i] / w->logit_cap);
    }
    for (int i = 0; i < 3; i++) free_operand(&s.operands[i]);
    free(memory);
    return !ready;
}
