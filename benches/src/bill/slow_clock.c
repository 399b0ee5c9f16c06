/* Makes the monotonic clock of a process slower, by the factor in SLOW_CLOCK, so that no timer of the process ends while
 * callgrind or a loaded machine makes it slow. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static long long factor;

__attribute__((constructor)) static void read_factor(void) {
    const char *text = getenv("SLOW_CLOCK");
    factor = text ? atoll(text) : 1;
    if (factor < 1) factor = 1;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = (int)syscall(SYS_clock_gettime, clock, time);
    if (result == 0 && clock == CLOCK_MONOTONIC && factor > 1) {
        long long nanoseconds = (time->tv_sec * 1000000000LL + time->tv_nsec) / factor;
        time->tv_sec = nanoseconds / 1000000000LL;
        time->tv_nsec = nanoseconds % 1000000000LL;
    }
    return result;
}
