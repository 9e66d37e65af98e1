/* One step of a decoder-only model: hidden states of a few tokens, each the next one of its sequence, from embedding to logits.

   Rows are independent: row r reads and writes the keys and values of its own sequence, after those of earlier rows of the same
   sequence. The residual stream is in float32. */

#include "thread_pool.h"
#include "matrix_product.h"
#include <math.h>

enum { SILU, GELU, GELU_TANH };
#define KEYS_AT_ONCE 64
#define MAX_HEAD 256

/* Experts of a feed-forward, of which each row passes through the best few. */
typedef struct {
    long count, chosen, is_sigmoid, is_normalized; /* count: 0 for a plain feed-forward */
    float scale;                                   /* of the routing weights */
    matrix router, shared_gate;                    /* in float32; the second one, of shared experts, may be absent */
    const matrix *matrices;                        /* gates of all experts, then their ups, then their downs */
    const float *selection_bias;                   /* on the choice of experts, not on their weights; or NULL */
} mixture;

typedef struct {
    matrix query, key, value, output, gate, up, down; /* the last three of a mixture: shared experts, or absent */
    const float *attention_norm, *attention_post_norm, *feed_forward_norm, *feed_forward_post_norm; /* NULL: none */
    const float *query_norm, *key_norm;                                                              /* of each head */
    const float *frequencies; /* (rotary / 2), NULL without rotation */
    float magnitude;          /* of cosine and sine */
    long window;              /* keys that a query attends to; 0: all */
    mixture experts;
} block_weights;

typedef struct {
    long num_blocks, hidden, heads, kv_heads, head_dim, rotary, activation;
    long intermediate, experts, chosen; /* the largest numbers of all blocks */
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
    long width; /* of the rows of gate and up */
    float *x, *normed, *query, *key, *value, *attended, *gate, *up, *added;
    float *gathered, *expert_output, *scores, *shares; /* of a mixture: of one expert's rows; (rows, experts); (rows, chosen) */
    long *chosen, *members;                            /* (rows, chosen); (rows): places in it of an expert's rows */
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
static void multiply_rows(step_state *s, const float *x, long rows, long count, const matrix *const *matrices, float *const *outs) {
    product products[3];
    for (long i = 0; i < count; i++) {
        const matrix *w = matrices[i];
        long same = 0;
        while (same < i && (matrices[same]->kind != w->kind || matrices[same]->group != w->group || matrices[same]->order != w->order))
            same++;
        if (same == i) set_operand(&s->operands[i], w, x, 1, rows, w->columns);
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
    const long count = s->width / 4 + 1, begin = item % 4 * count, row = item / 4 * s->width;
    const long end = begin + count < s->width ? begin + count : s->width;
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

/* down(f(gate(x)) up(x)) of some rows. */
static void feed_forward(step_state *s, const float *x, long rows, const matrix *gate, const matrix *up, const matrix *down, float *to) {
    const long threads = s->input->threads;
    multiply_rows(s, x, rows, 2, (const matrix *const[]){gate, up}, (float *const[]){s->gate, s->up});
    s->width = gate->rows;
    for_each_item(4 * rows, rows * s->width < 16384 ? 1 : threads, gate_row, s);
    multiply_rows(s, s->gate, rows, 1, (const matrix *const[]){down}, (float *const[]){to});
}

/* The experts with the best scores of a row, and their routing weights. */
static void choose_experts(const mixture *m, float *scores, long *chosen, float *shares) {
    float largest = -INFINITY, total = 0, sum = 0;
    for (long e = 0; e < m->count; e++) largest = scores[e] > largest ? scores[e] : largest;
    for (long e = 0; e < m->count; e++) {
        scores[e] = m->is_sigmoid ? 1 / (1 + expf(-scores[e])) : expf(scores[e] - largest);
        total += scores[e];
    }
    for (long e = 0; !m->is_sigmoid && e < m->count; e++) scores[e] /= total;
    for (long i = 0; i < m->chosen; i++) {
        float best = -INFINITY;
        chosen[i] = -1;
        for (long e = 0; e < m->count; e++) {
            const float score = scores[e] + (m->selection_bias ? m->selection_bias[e] : 0);
            int taken = 0;
            for (long k = 0; k < i; k++) taken |= chosen[k] == e;
            if (!taken && (chosen[i] < 0 || score > best)) best = score, chosen[i] = e;
        }
        shares[i] = scores[chosen[i]];
        sum += shares[i];
    }
    for (long i = 0; i < m->chosen; i++) shares[i] *= m->scale / (m->is_normalized ? sum + 1e-20f : 1);
}

/* The sum of a row's experts, in the order of their numbers, and of its shared experts. */
static void mix_experts(step_state *s) {
    const block_weights *b = s->block;
    const mixture *m = &b->experts;
    const long rows = s->input->rows, hidden = s->weights->hidden;
    multiply_rows(s, s->normed, rows, 1, (const matrix *const[]){&m->router}, (float *const[]){s->scores});
    for (long row = 0; row < rows; row++)
        choose_experts(m, s->scores + row * m->count, s->chosen + row * m->chosen, s->shares + row * m->chosen);
    memset(s->added, 0, sizeof(float) * rows * hidden);
    if (b->gate.kind) {
        feed_forward(s, s->normed, rows, &b->gate, &b->up, &b->down, s->added);
        if (m->shared_gate.kind) {
            multiply_rows(s, s->normed, rows, 1, (const matrix *const[]){&m->shared_gate}, (float *const[]){s->scores});
            for (long i = 0; i < rows * hidden; i++) s->added[i] /= 1 + exponential(-s->scores[i / hidden]);
        }
    }
    for (long expert = 0; expert < m->count; expert++) {
        const matrix *w = m->matrices + expert;
        long count = 0;
        for (long place = 0; place < rows * m->chosen; place++)
            if (s->chosen[place] == expert) {
                memcpy(s->gathered + count * hidden, s->normed + place / m->chosen * hidden, sizeof(float) * hidden);
                s->members[count++] = place;
            }
        if (!count) continue; /* a tile of no rows is a fault of the processor */
        feed_forward(s, s->gathered, count, w, w + m->count, w + 2 * m->count, s->expert_output);
        for (long i = 0; i < count; i++) {
            float *to = s->added + s->members[i] / m->chosen * hidden;
            for (long k = 0; k < hidden; k++) to[k] += s->shares[s->members[i]] * s->expert_output[i * hidden + k];
        }
    }
}

static void run_block(step_state *s) {
    const block_weights *b = s->block;
    const decoder_weights *w = s->weights;
    const long rows = s->input->rows, threads = s->input->threads;
    normalize_rows(s, s->x, b->attention_norm, s->normed, w->hidden);
    multiply_rows(s, s->normed, rows, 3, (const matrix *const[]){&b->query, &b->key, &b->value},
                  (float *const[]){s->query, s->key, s->value});
    for_each_item(rows, rows < 4 ? 1 : threads, place_row, s);
    for_each_item(rows * w->kv_heads, threads, attend, s);
    multiply_rows(s, s->attended, rows, 1, (const matrix *const[]){&b->output}, (float *const[]){s->added});
    add_rows(s, b->attention_post_norm);
    normalize_rows(s, s->x, b->feed_forward_norm, s->normed, w->hidden);
    if (b->experts.count) mix_experts(s);
    else feed_forward(s, s->normed, rows, &b->gate, &b->up, &b->down, s->added);
    add_rows(s, b->feed_forward_post_norm);
}

static long largest(long a, long b) { return a > b ? a : b; }

/* Logits of the last `wanted` rows, float32 (wanted, vocabulary). Returns 0, or 1 without memory. */
int decode_step(const decoder_weights *w, const step_input *in, long wanted, float *logits) {
    const long rows = in->rows, attended = w->heads * w->head_dim, keys = w->kv_heads * w->head_dim;
    const long mixed = w->experts ? w->hidden : 0, widest = largest(largest(w->hidden, attended), w->intermediate);
    step_state s = {.weights = w, .input = in};
    const struct {
        float **part;
        long width;
    } parts[] = {
        {&s.x, w->hidden}, {&s.normed, w->hidden}, {&s.query, attended}, {&s.key, keys}, {&s.value, keys},
        {&s.attended, attended}, {&s.gate, w->intermediate}, {&s.up, w->intermediate}, {&s.added, w->hidden},
        {&s.gathered, mixed}, {&s.expert_output, mixed}, {&s.scores, w->experts}, {&s.shares, w->chosen},
    };
    const int count = sizeof(parts) / sizeof(parts[0]);
    long total = 0;
    for (int i = 0; i < count; i++) total += rows * parts[i].width;
    float *memory = malloc(sizeof(float) * total);
    long *numbers = malloc(sizeof(long) * (rows * (w->chosen + 1)));
    int ready = memory != 0 && numbers != 0;
    for (int i = 0; i < 3; i++) ready &= allocate_operand(&s.operands[i], rows, widest);
    if (ready) {
        s.chosen = numbers, s.members = numbers + rows * w->chosen;
        float *next = memory;
        for (int i = 0; i < count; next += rows * parts[i++].width) *parts[i].part = next;
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
    free(memory), free(numbers);
    return !ready;
}
