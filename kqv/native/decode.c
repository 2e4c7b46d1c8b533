/* A step of decoding in one call: the next token of a few texts through every layer of a decoder.

   The same numbers as kqv/transformer.py, in float32. There is little to compute for each number of a matrix that is read, so that
   all texts share the reading, and the threads share the rows of each matrix. What is little even so, the residual stream and its
   norms, every thread makes for itself rather than wait for another. */

#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "matrix.h"
#include "row.h"
#include "shape.h"

enum { WORTH_SHARING = 1 << 18 }; /* numbers in a layer: threads wait for each other five times, far longer on a busy machine */

typedef struct {
    Norm attention_norm, feed_forward_norm;
    const float *query_norm, *key_norm; /* [head width]; or NULL */
    Matrix in, out, up, down;
    int64_t window;             /* how many keys are seen, the query's own among them; 0 for all */
} Layer;

typedef struct {
    const Layer *layers;
    const float *frequencies;   /* [head width / 2]: radians a position; NULL for no rotation */
    Norm final_norm;
    Matrix head;
    int64_t num_layers;
    Shape shape;
    float head_scale;
} Model;

typedef struct {
    float *const *keys, *const *values; /* of each layer [length + 1 or more][key heads][head width]: the last is yet to come */
    float *weights;             /* [layers][heads][length + 1]; or NULL */
    int64_t length;             /* tokens before this one */
} Text;

typedef struct {
    const Model *model;
    const Text *texts;
    float *x;                   /* [texts][width]: embeddings, then the last hidden states */
    float *outputs;             /* [layers][texts][heads][head width] */
    float *logits;              /* [texts][vocabulary] */
    int64_t num_texts;
} Step;

/* A thread's own memory, and what all share, of which each writes its rows. */
typedef struct {
    float *x, *normed, *sums, *scores, *cosines, *sines;
    float *projected, *inner, *added;
    int64_t index, threads;
} Thread;

static void normalize_all(const Step *step, Norm norm, const float *x, float *y)
{
    for (int64_t text = 0; text < step->num_texts; text++)
        normalize(&step->model->shape, norm, x + text * step->model->shape.width, y + text * step->model->shape.width);
}

/* What a sublayer reads. */
static float *enter(const Step *step, const Thread *own, Norm norm)
{
    if (!step->model->shape.norm_first)
        return own->x;
    normalize_all(step, norm, own->x, own->normed);
    return own->normed;
}

/* Take up what a sublayer adds. */
static void leave(const Step *step, const Thread *own, Norm norm)
{
    for (int64_t d = 0; d < step->num_texts * step->model->shape.width; d++)
        own->x[d] += own->added[d];
    if (!step->model->shape.norm_first)
        normalize_all(step, norm, own->x, own->x);
}

/* A thread's rows of so many, in whole tiles. */
typedef struct {
    int64_t first, last;
} Rows;

static Rows share(const Thread *own, int64_t rows)
{
    const int64_t tiles = (rows + TILE - 1) / TILE;
    const int64_t first = tiles * own->index / own->threads * TILE, last = tiles * (own->index + 1) / own->threads * TILE;
    return (Rows){first, last < rows ? last : rows};
}

static Vectors read_by(const Step *step, const Thread *own, const Matrix *matrix, float *x, int64_t stride)
{
    const Vectors all = {x, own->sums, step->num_texts, stride, sums_of(matrix->columns)};
    if (matrix->form == FOUR_BITS)
        add_up(all, matrix->columns);
    return all;
}

/* The thread's rows of y = matrix · x + bias. */
static void project(const Step *step, const Thread *own, const Matrix *matrix, float *x, int64_t stride, float *y)
{
    const Rows rows = share(own, matrix->rows);
    multiply(matrix, rows.first, rows.last, read_by(step, own, matrix, x, stride), y, matrix->rows);
}

/* One key head of one text: its new key and value, and the queries that look at it. */
static void attend(const Step *step, const Thread *own, int64_t layer, int64_t text_index, int64_t key_head)
{
    const Model *model = step->model;
    const Layer *is = model->layers + layer;
    const Text *text = step->texts + text_index;
    const int64_t width = model->shape.head_width, stride = model->shape.key_heads * width, count = text->length + 1;
    const int64_t first = is->window && is->window < count ? count - is->window : 0, shared = model->shape.heads / model->shape.key_heads;
    const float *cosines = own->cosines + text_index * (width / 2), *sines = own->sines + text_index * (width / 2);
    float *queries = own->projected + text_index * is->in.rows;
    float *keys = text->keys[layer] + key_head * width, *values = text->values[layer] + key_head * width;
    float *key = keys + text->length * stride;
    memcpy(key, queries + (model->shape.heads + key_head) * width, width * sizeof *key);
    memcpy(values + text->length * stride, queries + (model->shape.heads + model->shape.key_heads + key_head) * width, width * sizeof *key);
    if (is->key_norm)
        normalize_head(key, is->key_norm, width, model->shape.epsilon);
    if (model->frequencies)
        turn(key, cosines, sines, width);
    for (int64_t head = key_head * shared; head < (key_head + 1) * shared; head++) {
        float *query = queries + head * width;
        if (is->query_norm)
            normalize_head(query, is->query_norm, width, model->shape.epsilon);
        if (model->frequencies)
            turn(query, cosines, sines, width);
        for (int64_t d = 0; d < width; d++)
            query[d] *= model->shape.scale * 1.44269504088896341f; /* log₂ e */
        score_keys(query, keys + first * stride, stride, count - first, width, own->scores);
        weigh(own->scores, count - first);
        float *output = step->outputs + ((layer * step->num_texts + text_index) * model->shape.heads + head) * width;
        mix_values(own->scores, values + first * stride, stride, count - first, width, output);
        if (text->weights) {
            float *row = text->weights + (layer * model->shape.heads + head) * count;
            memset(row, 0, first * sizeof *row);
            memcpy(row + first, own->scores, (count - first) * sizeof *row);
        }
    }
}

/* The thread's inner numbers of the feed-forward, which lie where their first projection was. */
static void widen_stream(const Step *step, const Thread *own, const Layer *layer, float *x)
{
    const Model *model = step->model;
    const int64_t inner = model->shape.inner, stride = layer->up.rows;
    const Rows rows = share(own, inner);
    const Vectors all = read_by(step, own, &layer->up, x, model->shape.width);
    multiply(&layer->up, rows.first, rows.last, all, own->inner, stride);
    if (model->shape.gated)
        multiply(&layer->up, inner + rows.first, inner + rows.last, all, own->inner, stride);
    for (int64_t text = 0; text < step->num_texts; text++)
        for (int64_t i = rows.first; i < rows.last; i += WIDTH) {
            float *at = own->inner + text * stride + i;
            const int64_t count = rows.last - i < WIDTH ? rows.last - i : WIDTH;
            float in[WIDTH] = {0}, times[WIDTH] = {0}, out[WIDTH];
            memcpy(in, at, count * sizeof *at);
            if (model->shape.gated)
                memcpy(times, at + inner, count * sizeof *at);
            const Vector active = activate(load(in), model->shape.activation);
            store(out, model->shape.gated ? active * load(times) : active);
            memcpy(at, out, count * sizeof *at);
        }
}

static void pass_layer(const Step *step, const Thread *own, int64_t index)
{
    const Model *model = step->model;
    const Layer *layer = model->layers + index;
    const int64_t outputs = model->shape.heads * model->shape.head_width;
    project(step, own, &layer->in, enter(step, own, layer->attention_norm), model->shape.width, own->projected);
#pragma omp barrier
    for (int64_t task = own->index; task < step->num_texts * model->shape.key_heads; task += own->threads)
        attend(step, own, index, task / model->shape.key_heads, task % model->shape.key_heads);
#pragma omp barrier
    project(step, own, &layer->out, step->outputs + index * step->num_texts * outputs, outputs, own->added);
#pragma omp barrier
    leave(step, own, layer->attention_norm);
    widen_stream(step, own, layer, enter(step, own, layer->feed_forward_norm));
#pragma omp barrier
    project(step, own, &layer->down, own->inner, layer->up.rows, own->added);
#pragma omp barrier
    leave(step, own, layer->feed_forward_norm);
}

static void run(const Step *step, const Thread *own)
{
    const Model *model = step->model;
    const int64_t half = model->shape.head_width / 2, numbers = step->num_texts * model->shape.width;
    memcpy(own->x, step->x, numbers * sizeof *own->x);
    for (int64_t text = 0; model->frequencies && text < step->num_texts; text++)
        for (int64_t i = 0; i < half; i++) {
            const float angle = (float)step->texts[text].length * model->frequencies[i];
            own->cosines[text * half + i] = cosf(angle), own->sines[text * half + i] = sinf(angle);
        }
    for (int64_t layer = 0; layer < model->num_layers; layer++)
        pass_layer(step, own, layer);
    if (model->final_norm.weight)
        normalize_all(step, model->final_norm, own->x, own->x);
    if (own->index == 0)
        memcpy(step->x, own->x, numbers * sizeof *own->x); /* all have read the embeddings long ago */
    for (int64_t d = 0; d < numbers; d++)
        own->x[d] *= model->head_scale;
    project(step, own, &model->head, own->x, model->shape.width, step->logits);
}

/* Memory that is handed out in whole lines of the cache; without a base it is only measured. */
typedef struct {
    float *base;
    int64_t used;
} Memory;

static float *take(Memory *memory, int64_t numbers)
{
    float *taken = memory->base ? memory->base + memory->used : NULL;
    memory->used += (numbers + 15) / 16 * 16;
    return taken;
}

static void take_common(const Step *step, Memory *memory, Thread *own)
{
    const Layer *layer = step->model->layers;
    own->projected = take(memory, step->num_texts * layer->in.rows);
    own->inner = take(memory, step->num_texts * layer->up.rows);
    own->added = take(memory, step->num_texts * step->model->shape.width);
}

static void take_own(const Step *step, Memory *memory, Thread *own)
{
    const Model *model = step->model;
    const int64_t texts = step->num_texts, half = model->shape.head_width / 2, joined = model->shape.heads * model->shape.head_width;
    int64_t longest = 0, columns = model->shape.inner > model->shape.width ? model->shape.inner : model->shape.width;
    columns = joined > columns ? joined : columns;
    for (int64_t text = 0; text < texts; text++)
        longest = step->texts[text].length > longest ? step->texts[text].length : longest;
    own->x = take(memory, texts * model->shape.width), own->normed = take(memory, texts * model->shape.width);
    own->sums = take(memory, texts * sums_of(columns)), own->scores = take(memory, longest + 1 + WIDTH);
    own->cosines = take(memory, texts * half), own->sines = take(memory, texts * half);
}

static int64_t numbers_of(const Layer *layer)
{
    const Matrix *const matrices[] = {&layer->in, &layer->out, &layer->up, &layer->down};
    int64_t numbers = 0;
    for (int i = 0; i < 4; i++)
        numbers += matrices[i]->rows * matrices[i]->columns;
    return numbers;
}

/* One token more for each text; 0 where there is no memory for it. */
int kqv_decode(const Step *step)
{
    Memory common = {0}, each = {0};
    take_common(step, &common, &(Thread){0}), take_own(step, &each, &(Thread){0});
    float *base = aligned_alloc(64, (common.used + omp_get_max_threads() * each.used) * sizeof *base);
    if (!base)
        return 0;
#pragma omp parallel if (numbers_of(step->model->layers) >= WORTH_SHARING)
    {
        Thread own = {.index = omp_get_thread_num(), .threads = omp_get_num_threads()};
        Memory memory = {base, 0};
        take_common(step, &memory, &own);
        memory.used += own.index * each.used;
        take_own(step, &memory, &own);
        run(step, &own);
    }
    free(base);
    return 1;
}
