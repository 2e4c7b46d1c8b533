/* A packed batch through a stack of layers in one call; or from one attention to the next, where somebody else attends.

   The same numbers as kqv/transformer.py and kqv/recorder.py, in float32. Between two attentions a block of tokens goes through all that
   there is while it is in the cache, so that what lies between, the inner numbers of the feed-forward above all, is never there for all
   tokens at once. Many tokens are shared among threads by blocks, and nobody waits; of few, all threads work on the one block, each on
   its panels of every matrix. */

#include <omp.h>
#include <stdlib.h>

#include "call.h"
#include "figures.h"
#include "panels.h"

enum { TOKENS = 96, WORTH_A_BLOCK = 48, WORTH_SHARING = 1 << 20 }; /* the last in products of numbers */

typedef struct {
    Norm attention_norm, feed_forward_norm;
    const float *query_norm, *key_norm; /* [head width]; or NULL */
    Panels in, out, up, times, down;    /* `times` where the activation is multiplied with a second projection */
} Layer;

typedef struct {
    const Layer *layers;
    Norm final_norm;
    int64_t num_layers;
    Shape shape;
} Stack;

typedef struct {
    const Stack *stack;
    float *x;                     /* [tokens][stride_of(width)]: the residual stream */
    float *asked;                 /* [tokens][stride_of(rows of `in`)]: queries, keys and values */
    const float *given;           /* [tokens][heads][head width]: what the heads gave */
    const float *cosines, *sines; /* [tokens][head width], of which half is read; or NULL for no rotation */
    int64_t tokens;
} Pass;

/* What is told of each query beside what attention tells: further planes of its quantities. */
enum { NORMALIZED_ENTROPY = NUM_PLANES, OUTPUT_NORM, ALL_PLANES };

/* What a layer's queries see, and how it is looked at. */
typedef struct {
    const int32_t *low, *high; /* [tokens]: as in `Call` */
    const float *factors;      /* [heads][rows][head width] of the output projection: see `Lengths`; or NULL: nobody looks */
    const float *counted;      /* [measures][tokens]: 1 where a measure's mean is over the query, else 0 */
    const float *most;         /* [tokens]: the entropy of a query that looks at all that it sees alike */
    float *sums;               /* [measures][heads][sequences] */
    float *worst;              /* [2][sequences]: |Σ weights − 1|, and the largest weight of a masked key */
    const Map *maps;           /* [sequences]: what is kept of the weights; or NULL: nothing */
} Look;

typedef struct {
    const Call *call;      /* of every layer, but for what it sees; room for ALL_PLANES of quantities where any is looked at */
    const Look *looks;     /* of each layer */
    const int64_t *planes; /* [measures]: which quantity each is the mean of */
    const int64_t *ends;   /* [sequences]: one past each one's last token */
    int64_t num_measures, rows;
} Looks;

/* Some neighbouring tokens on their way, and the threads that work on them. */
typedef struct {
    const Stack *stack;
    Many x, asked, given, normed, inner;
    const float *cosines, *sines;
    int64_t count, index, threads;
} Block;

/* Wait for the other threads that work on the block. */
INLINE void meet(const Block *block)
{
    if (block->threads > 1) {
#pragma omp barrier
    }
}

/* y = matrix · x + bias for all tokens, finished in some way. */
static void project(const Block *block, const Panels *matrix, Many x, Many y, Finish finish)
{
    const int64_t panels = panels_of(matrix->rows);
    const int64_t first = panels * block->index / block->threads, last = panels * (block->index + 1) / block->threads;
    multiply_panels(matrix, first, last, x, y, block->count, finish, block->stack->shape.activation);
}

static void normalize_all(const Block *block, Norm norm, Many x, Many y)
{
    meet(block);
    for (int64_t token = block->index; token < block->count; token += block->threads)
        normalize(&block->stack->shape, norm, x.numbers + token * x.stride, y.numbers + token * y.stride);
    meet(block);
}

/* What a sublayer reads. */
static Many enter(const Block *block, Norm norm)
{
    if (!block->stack->shape.norm_first)
        return block->x;
    normalize_all(block, norm, block->x, block->normed);
    return block->normed;
}

/* Take up what a sublayer adds: matrix · x + bias. */
static void leave(const Block *block, const Panels *matrix, Many x, Norm norm)
{
    project(block, matrix, x, block->x, ADD);
    if (!block->stack->shape.norm_first)
        normalize_all(block, norm, block->x, block->x);
}

static void feed_forward(const Block *block, const Layer *layer)
{
    const Many x = enter(block, layer->feed_forward_norm);
    project(block, &layer->up, x, block->inner, ACTIVATE);
    if (block->stack->shape.gated)
        project(block, &layer->times, x, block->inner, MULTIPLY);
    meet(block);
    leave(block, &layer->down, block->inner, layer->feed_forward_norm);
}

/* Norms and rotations of a token's queries or keys. */
static void place_heads(const Block *block, int64_t token, float *heads, int64_t count, const float *norm)
{
    const Shape *shape = &block->stack->shape;
    const int64_t width = shape->head_width;
    for (int64_t head = 0; head < count; head++) {
        if (norm)
            normalize_head(heads + head * width, norm, width, shape->epsilon);
        if (block->cosines)
            turn(heads + head * width, block->cosines + token * width, block->sines + token * width, width);
    }
}

static void ask(const Block *block, const Layer *layer)
{
    const Shape *shape = &block->stack->shape;
    project(block, &layer->in, enter(block, layer->attention_norm), block->asked, KEEP);
    if (!layer->query_norm && !block->cosines)
        return;
    meet(block);
    for (int64_t token = block->index; token < block->count; token += block->threads) {
        float *queries = block->asked.numbers + token * block->asked.stride;
        place_heads(block, token, queries, shape->heads, layer->query_norm);
        place_heads(block, token, queries + shape->heads * shape->head_width, shape->key_heads, layer->key_norm);
    }
}

/* From the heads of layer `index` − 1 to those of layer `index`. */
static void go_between(const Block *block, int64_t index)
{
    const Stack *stack = block->stack;
    if (index > 0) {
        const Layer *layer = stack->layers + index - 1;
        leave(block, &layer->out, block->given, layer->attention_norm);
        feed_forward(block, layer);
    }
    if (index < stack->num_layers)
        ask(block, stack->layers + index);
    else if (stack->final_norm.weight)
        normalize_all(block, stack->final_norm, block->x, block->x);
}

/* How tokens are cut into blocks, of which each thread takes some; or all threads take one after the other. */
typedef struct {
    int64_t size, blocks, threads;
} Cut;

static Cut cut(const Pass *pass)
{
    const int64_t threads = omp_get_max_threads(), each = (pass->tokens + threads - 1) / threads;
    const int together = threads > 1 && each < WORTH_A_BLOCK;
    const int64_t wanted = together ? pass->tokens : (each + TOGETHER - 1) / TOGETHER * TOGETHER;
    const int64_t size = wanted < TOKENS ? wanted : TOKENS;
    return (Cut){size, (pass->tokens + size - 1) / size, together ? threads : 1};
}

static int64_t room_of_block(const Stack *stack, Cut cut)
{
    return cut.size * (stride_of(stack->shape.width) + stride_of(stack->shape.inner));
}

/* Room for the blocks that are worked on at once; NULL where there is no memory for it. */
static float *make_room(const Stack *stack, Cut cut)
{
    return aligned_alloc(64, (cut.threads > 1 ? 1 : omp_get_max_threads()) * room_of_block(stack, cut) * sizeof(float));
}

static Block block_at(const Pass *pass, Cut cut, int64_t index, float *room)
{
    const Stack *stack = pass->stack;
    const Shape *shape = &stack->shape;
    const int64_t first = index * cut.size, left = pass->tokens - first, width = stride_of(shape->width);
    const int64_t asked = stride_of(stack->layers->in.rows), given = shape->heads * shape->head_width, turned = first * shape->head_width;
    return (Block){
        .stack = stack,
        .x = {pass->x + first * width, width},
        .asked = {pass->asked + first * asked, asked},
        .given = {(float *)pass->given + first * given, given},
        .normed = {room, width},
        .inner = {room + cut.size * width, stride_of(shape->inner)},
        .cosines = pass->cosines ? pass->cosines + turned : NULL,
        .sines = pass->sines ? pass->sines + turned : NULL,
        .count = left < cut.size ? left : cut.size,
    };
}

/* How many rows a panel has. */
int kqv_panel(void) { return PANEL; }

/* From the heads of layer `index` − 1, or from the embeddings, to those of layer `index`, or to the last hidden states. */
static void between(const Pass *pass, int64_t index, Cut own, float *room)
{
    const int64_t each = room_of_block(pass->stack, own), numbers = pass->stack->shape.width * pass->stack->shape.inner;
#pragma omp parallel if (pass->tokens * numbers >= WORTH_SHARING)
    if (own.threads > 1) {
        for (int64_t i = 0; i < own.blocks; i++) {
            Block block = block_at(pass, own, i, room);
            block.index = omp_get_thread_num(), block.threads = omp_get_num_threads();
            go_between(&block, index);
            meet(&block);
        }
    } else {
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < own.blocks; i++) {
            Block block = block_at(pass, own, i, room + omp_get_thread_num() * each);
            block.index = 0, block.threads = 1;
            go_between(&block, index);
        }
    }
}

/* The same by itself; 0 where there is no memory for it. */
int kqv_between(const Pass *pass, int64_t index)
{
    const Cut own = cut(pass);
    float *room = make_room(pass->stack, own);
    if (!room)
        return 0;
    between(pass, index, own, room);
    free(room);
    return 1;
}

/* What the attention of a layer told of each query, summed up for each sequence. */
static void sum_up(const Looks *looks, const Look *look)
{
    const Call *call = looks->call;
    const int64_t tokens = call->tokens, plane = call->heads * tokens;
    const float *planes[ALL_PLANES];
    for (int64_t measure = 0; measure < looks->num_measures; measure++)
        planes[measure] = call->quantities + looks->planes[measure] * plane;
    kqv_lengths(&(Lengths){call->output, look->factors, call->quantities + OUTPUT_NORM * plane, tokens, call->heads, looks->rows,
                           call->width});
    for (int64_t head = 0; head < call->heads; head++) {
        const float *entropy = call->quantities + ENTROPY * plane + head * tokens;
        float *normalized = call->quantities + NORMALIZED_ENTROPY * plane + head * tokens;
        for (int64_t token = 0; token < tokens; token++)
            normalized[token] = entropy[token] / look->most[token];
    }
    kqv_sums(&(Sums){planes, look->counted, looks->ends, look->sums, looks->num_measures, call->heads, tokens, call->num_sequences, 0});
}

/* The larger number; what isn't one is worse than any. */
INLINE float worse(float a, float b) { return a >= b || a != a ? a : b; }

/* How far the weights of each sequence are, at worst, from what weights must be. */
static void check(const Looks *looks, const Look *look)
{
    const Call *call = looks->call;
    const int64_t tokens = call->tokens, plane = call->heads * tokens;
    for (int64_t s = 0, start = 0; s < call->num_sequences; start = looks->ends[s++]) {
        float error = 0.0f, forbidden = 0.0f;
        for (int64_t head = 0; head < call->heads; head++)
            for (int64_t token = start; token < looks->ends[s]; token++) {
                const float *quantity = call->quantities + head * tokens + token;
                if (look->low[token] < look->high[token])
                    error = worse(error, fabsf(quantity[ROW_SUM * plane] - 1.0f));
                forbidden = worse(forbidden, quantity[FORBIDDEN * plane]);
            }
        look->worst[s] = error, look->worst[call->num_sequences + s] = forbidden;
    }
}

/* From the embeddings to the last hidden states; 0 where there is no memory for it. */
int kqv_pass(const Pass *pass, const Looks *looks)
{
    const Cut own = cut(pass);
    float *room = make_room(pass->stack, own);
    if (!room)
        return 0;
    for (int64_t layer = 0; layer < pass->stack->num_layers; layer++) {
        const Look *look = looks->looks + layer;
        Call call = *looks->call;
        call.low = look->low, call.high = look->high, call.maps = look->maps;
        if (!look->factors)
            call.quantities = NULL;
        between(pass, layer, own, room);
        kqv_attend(&call);
        if (look->factors)
            sum_up(looks, look), check(looks, look);
    }
    between(pass, pass->stack->num_layers, own, room);
    free(room);
    return 1;
}
