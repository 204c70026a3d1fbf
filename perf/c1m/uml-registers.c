/* Preloaded to linux.uml by uml-run where the processor has AMX: user-mode Linux 6.1 keeps 2,696 bytes of a process's
 * extended registers (up to AVX-512 and PKRU), and since AMX the host takes all 11 KB of them or none (EFAULT).
 * What user-mode Linux does not know stays as it is in the process. */
#define _GNU_SOURCE
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* x87, SSE, AVX, MPX, AVX-512 and PKRU: the components that lie within those bytes. */
enum { KNOWN = 0x3ff, XSTATE_BV_AT = 512 };

static unsigned char all[1 << 16] __attribute__((aligned(64)));

long ptrace(enum __ptrace_request request, ...)
{
    va_list list;
    va_start(list, request);
    long pid = va_arg(list, int);
    void *addr = va_arg(list, void *), *data = va_arg(list, void *);
    va_end(list);
    if (request == PTRACE_SETREGSET && (long)addr == NT_X86_XSTATE) {
        struct iovec *known = data, full = { all, sizeof all };
        if (syscall(SYS_ptrace, PTRACE_GETREGSET, pid, addr, &full) == 0 && known->iov_len < full.iov_len) {
            unsigned long components;
            memcpy(all, known->iov_base, known->iov_len);
            memcpy(&components, all + XSTATE_BV_AT, sizeof components);
            components &= KNOWN;
            memcpy(all + XSTATE_BV_AT, &components, sizeof components);
            return syscall(SYS_ptrace, request, pid, addr, &full);
        }
    }
    if (request >= PTRACE_PEEKTEXT && request <= PTRACE_PEEKUSER) {
        long word;
        long result = syscall(SYS_ptrace, request, pid, addr, &word);
        return result < 0 ? result : word;
    }
    return syscall(SYS_ptrace, request, pid, addr, data);
}
