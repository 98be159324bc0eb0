// Tasks for several threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

// GOMP_parallel of the OpenMP library that PyTorch has loaded, or null: call function(data) by several threads. For some
// milliseconds after a matrix product, the threads of PyTorch wait for more work without giving up their cores, which
// threads beside them would have to share.
using Parallel = void (*)(void (*function)(void *), void *data, unsigned threads, unsigned flags);
inline Parallel parallel = nullptr;

// Call function(task) for all tasks by several threads, which take one task after the other. Returns whether it failed,
// which is where there is not enough memory.
template <typename Function>
bool run_tasks(int64_t tasks, int64_t threads, Function function) {
    std::atomic<int64_t> next{0};
    std::atomic<bool> failed{false};
    auto work = [&] {
        try {
            for (int64_t task = next++; task < tasks && !failed; task = next++) function(task);
        } catch (const std::exception &) {
            failed = true;
        }
    };
    if (threads > 1 && tasks > 1 && parallel) {
        // all threads, even where there are fewer tasks: OpenMP would end the others
        parallel([](void *data) { (*static_cast<decltype(work) *>(data))(); }, &work, unsigned(threads), 0);
        return failed;
    }
    std::vector<std::thread> others;
    try {
        for (int64_t n = 1; n < std::min(threads, tasks); ++n) others.emplace_back(work);
    } catch (const std::exception &) {
        // the threads that there are do all the work
    }
    work();
    for (std::thread &other : others) other.join();
    return failed;
}
