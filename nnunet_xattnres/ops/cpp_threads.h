// Tasks for several threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <thread>
#include <vector>

// Call function(task) for all tasks by several threads, which take one task after the other. Returns whether it failed,
// which is where there is not enough memory.
template <typename Function>
bool run_tasks(int64_t tasks, int64_t threads, Function function) {
    std::atomic<int64_t> next{0};
    std::atomic<bool> failed{false};
    const auto work = [&] {
        try {
            for (int64_t task = next++; task < tasks && !failed; task = next++) function(task);
        } catch (const std::exception &) {
            failed = true;
        }
    };
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
