/* Threads that share the items of a loop. Items are claimed one by one, so that a thread whose processor is taken by another
   process delays its own item only; helpers sleep between loops after a short wait. */

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>

#define MAX_HELPERS 63
#define HELPER_SPINS 4000 /* some 50 microseconds */
#define CALLER_SPINS 2000

typedef void (*item_function)(void *context, long item);

static struct {
    _Atomic uint64_t ticket; /* number of the loop in the upper half, next item in the lower */
    _Atomic long count, finished, helpers;
    _Atomic(item_function) function;
    _Atomic(void *) context;
    _Atomic int sleeping;
    long started;
    pthread_mutex_t mutex, busy;
    pthread_cond_t wake;
} pool = {.mutex = PTHREAD_MUTEX_INITIALIZER, .busy = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

static inline void pause_briefly(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static int has_items(uint64_t ticket) { return (long)(ticket & 0xffffffff) < atomic_load(&pool.count); }

/* Runs one item; false if none is left. A claimed item keeps its loop from ending, hence function and context are its own. */
static int run_item(void) {
    uint64_t ticket = atomic_load(&pool.ticket);
    while (has_items(ticket)) {
        if (atomic_compare_exchange_weak(&pool.ticket, &ticket, ticket + 1)) {
            atomic_load(&pool.function)(atomic_load(&pool.context), (long)(ticket & 0xffffffff));
            atomic_fetch_add(&pool.finished, 1);
            return 1;
        }
    }
    return 0;
}

static void *help(void *number) {
    for (;;) {
        int spins = 0;
        const int wanted = (long)(intptr_t)number < atomic_load(&pool.helpers);
        while (wanted && spins < HELPER_SPINS) {
            if (run_item()) spins = 0;
            else spins++, pause_briefly();
        }
        pthread_mutex_lock(&pool.mutex);
        atomic_fetch_add(&pool.sleeping, 1);
        if (!wanted || !has_items(atomic_load(&pool.ticket))) pthread_cond_wait(&pool.wake, &pool.mutex);
        atomic_fetch_sub(&pool.sleeping, 1);
        pthread_mutex_unlock(&pool.mutex);
    }
    return 0;
}

static void forget_threads(void) { /* a child process has none of them */
    pool.started = 0;
    pthread_mutex_init(&pool.mutex, 0);
    pthread_mutex_init(&pool.busy, 0);
    pthread_cond_init(&pool.wake, 0);
    atomic_store(&pool.sleeping, 0);
    atomic_store(&pool.count, 0);
}

static void start_helpers(long helpers) {
    static int registered = 0;
    if (!registered) registered = 1, pthread_atfork(0, 0, forget_threads);
    while (pool.started < helpers && pool.started < MAX_HELPERS) {
        pthread_t thread;
        if (pthread_create(&thread, 0, help, (void *)(intptr_t)pool.started)) break;
        pthread_detach(thread);
        pool.started++;
    }
    atomic_store(&pool.helpers, helpers);
}

/* function(context, item) for each item below count. Another call in progress: without helpers. */
static void for_each_item(long count, long threads, item_function function, void *context) {
    if (threads <= 1 || count <= 1 || pthread_mutex_trylock(&pool.busy)) {
        for (long item = 0; item < count; item++) function(context, item);
        return;
    }
    start_helpers(threads - 1);
    atomic_store(&pool.count, 0); /* no item can be claimed until the ticket is new */
    atomic_store(&pool.function, function);
    atomic_store(&pool.context, context);
    atomic_store(&pool.finished, 0);
    atomic_store(&pool.ticket, ((atomic_load(&pool.ticket) >> 32) + 1) << 32);
    atomic_store(&pool.count, count);
    if (atomic_load(&pool.sleeping)) {
        pthread_mutex_lock(&pool.mutex);
        pthread_cond_broadcast(&pool.wake);
        pthread_mutex_unlock(&pool.mutex);
    }
    while (run_item()) {}
    for (long spins = 0; atomic_load(&pool.finished) < count; spins++) {
        if (spins < CALLER_SPINS) pause_briefly();
        else sched_yield();
    }
    pthread_mutex_unlock(&pool.busy);
}
