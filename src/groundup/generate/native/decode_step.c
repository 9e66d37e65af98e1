#include "thread_pool.h"
#include "matrix_product.h"
