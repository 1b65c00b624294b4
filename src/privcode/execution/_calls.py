"""System calls by name: what a program may call, and which calls fail with EPERM.

Promises:
- `ALLOWED` is all that a program gets.
- A call in no table, such as one that a newer kernel adds, does not exist for the program.

The calls of the compilers and runtimes of nine languages were traced (strace, not Swift's). The
rest is what POSIX programs call on files, memory, their own processes and time.

Does not: look at arguments (`_seccomp` does).
"""

Numbers = tuple[int | None, int | None]
"""A call's number on x86-64 and on aarch64. None where the architecture has no such call."""


def _numbers(text: str) -> dict[str, Numbers]:
    rows = (row.split() for row in text.replace(",", "\n").splitlines() if row.strip())
    return {name: (_number(x86), _number(arm)) for name, x86, arm in rows}


def _number(text: str) -> int | None:
    return None if text == "-" else int(text)


# One line per kind, in this order: files; memory; processes; users; signals; time; limits and the
# machine; events and stream pairs.
ALLOWED = _numbers(
    """
read 0 63, write 1 64, open 2 -, close 3 57, stat 4 -, fstat 5 80, lstat 6 -, newfstatat 262 79,
statx 332 291, poll 7 -, ppoll 271 73, lseek 8 62, pread64 17 67, pwrite64 18 68, readv 19 65,
writev 20 66, preadv 295 69, pwritev 296 70, preadv2 327 286, pwritev2 328 287, access 21 -,
faccessat 269 48, faccessat2 439 439, pipe 22 -, pipe2 293 59, select 23 -, pselect6 270 72,
dup 32 23, dup2 33 -, dup3 292 24, fcntl 72 25, flock 73 32, fsync 74 82, fdatasync 75 83,
sync_file_range 277 84, truncate 76 45, ftruncate 77 46, fallocate 285 47, getdents 78 -,
getdents64 217 61, getcwd 79 17, chdir 80 49, fchdir 81 50, rename 82 -, renameat 264 38,
renameat2 316 276, mkdir 83 -, mkdirat 258 34, rmdir 84 -, creat 85 -, link 86 -, linkat 265 37,
unlink 87 -, unlinkat 263 35, symlink 88 -, symlinkat 266 36, readlink 89 -, readlinkat 267 78,
chmod 90 -, fchmod 91 52, fchmodat 268 53, chown 92 -, fchown 93 55, lchown 94 -, fchownat 260 54,
umask 95 166, utime 132 -, utimes 235 -, futimesat 261 -, utimensat 280 88, mknod 133 -,
mknodat 259 33, statfs 137 43, fstatfs 138 44, openat 257 56, copy_file_range 326 285,
fadvise64 221 223, readahead 187 213, close_range 436 436, ioctl 16 29,
mmap 9 222, mprotect 10 226, munmap 11 215, brk 12 214, mremap 25 216, msync 26 227,
mincore 27 232, madvise 28 233, mlock 149 228, munlock 150 229, mlockall 151 230,
munlockall 152 231, mlock2 325 284, mbind 237 235, set_mempolicy 238 237, get_mempolicy 239 236,
pkey_mprotect 329 288, pkey_alloc 330 289, pkey_free 331 290, membarrier 324 283,
clone 56 220, fork 57 -, vfork 58 -, execve 59 221, execveat 322 281, exit 60 93,
exit_group 231 94, wait4 61 260, waitid 247 95, kill 62 129, tkill 200 130, tgkill 234 131,
getpid 39 172, getppid 110 173, gettid 186 178, getpgrp 111 -, getpgid 121 155, getsid 124 156,
set_tid_address 218 96, futex 202 98, set_robust_list 273 99, get_robust_list 274 100,
rseq 334 293, arch_prctl 158 -, prctl 157 167, restart_syscall 219 128, sched_yield 24 124,
sched_getparam 143 121, sched_getscheduler 145 120, sched_get_priority_max 146 125,
sched_get_priority_min 147 126, sched_rr_get_interval 148 127, sched_getaffinity 204 123,
sched_getattr 315 275, getpriority 140 141, ioprio_get 252 31, getcpu 309 168,
getuid 102 174, getgid 104 176, geteuid 107 175, getegid 108 177, getresuid 118 148,
getresgid 120 150, getgroups 115 158, setuid 105 146, setgid 106 144, setreuid 113 145,
setregid 114 143, setresuid 117 147, setresgid 119 149, setgroups 116 159, setfsuid 122 151,
setfsgid 123 152, capget 125 90, capset 126 91,
rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, rt_sigpending 127 136,
rt_sigtimedwait 128 137, rt_sigqueueinfo 129 138, rt_tgsigqueueinfo 297 240, rt_sigsuspend 130 133,
sigaltstack 131 132, pause 34 -, signalfd 282 -, signalfd4 289 74, alarm 37 -, getitimer 36 102,
setitimer 38 103,
nanosleep 35 101, clock_gettime 228 113, clock_getres 229 114, clock_nanosleep 230 115,
gettimeofday 96 169, time 201 -, times 100 153, timer_create 222 107, timer_settime 223 110,
timer_gettime 224 108, timer_getoverrun 225 109, timer_delete 226 111, timerfd_create 283 85,
timerfd_settime 286 86, timerfd_gettime 287 87,
getrlimit 97 163, setrlimit 160 164, prlimit64 302 261, getrusage 98 165, sysinfo 99 179,
uname 63 160, getrandom 318 278,
epoll_create 213 -, epoll_create1 291 20, epoll_ctl 233 21, epoll_wait 232 -, epoll_pwait 281 22,
epoll_pwait2 441 441, eventfd 284 -, eventfd2 290 19, socketpair 53 199, sendto 44 206,
recvfrom 45 207, sendmsg 46 211, recvmsg 47 212, sendmmsg 307 269, recvmmsg 299 243,
shutdown 48 210, getsockname 51 204, getpeername 52 205, setsockopt 54 208, getsockopt 55 209
"""
)
# A program sees PermissionError, and its verdict is "blocked".
DENIED = _numbers(
    """
socket 41 198, connect 42 203, bind 49 200, listen 50 201, ptrace 101 117,
process_vm_readv 310 270, process_vm_writev 311 271, process_madvise 440 440, kcmp 312 272,
pidfd_open 434 434, pidfd_send_signal 424 424, pidfd_getfd 438 438, setsid 112 157,
setpgid 109 154, unshare 272 97, setns 308 268, mount 165 40, umount2 166 39, pivot_root 155 41,
chroot 161 51, open_tree 428 428, move_mount 429 429, fsopen 430 430, fsconfig 431 431,
fsmount 432 432, fspick 433 433, mount_setattr 442 442, open_by_handle_at 304 265,
fanotify_init 300 262, quotactl 179 60, swapon 167 224, swapoff 168 225, acct 163 89, bpf 321 280,
perf_event_open 298 241, userfaultfd 323 282, io_uring_setup 425 425, io_uring_enter 426 426,
io_uring_register 427 427, keyctl 250 219, add_key 248 217, request_key 249 218,
memfd_create 319 279, memfd_secret 447 447, shmget 29 194, shmat 30 196, shmctl 31 195,
semget 64 190, semop 65 193, semtimedop 220 192, semctl 66 191, msgget 68 186, msgsnd 69 189,
msgrcv 70 188, msgctl 71 187, mq_open 240 180, mq_unlink 241 181, kexec_load 246 104,
kexec_file_load 320 294, init_module 175 105, finit_module 313 273, delete_module 176 106,
reboot 169 142, syslog 103 116, settimeofday 164 170, clock_settime 227 112, adjtimex 159 171,
clock_adjtime 305 266, personality 135 92, setpriority 141 140, ioprio_set 251 30,
sched_setparam 142 118, sched_setaffinity 203 122, sched_setattr 314 274, migrate_pages 256 238,
move_pages 279 239, inotify_init 253 -, inotify_init1 294 26
"""
)
# Refused where the program sees the machine's own file system: Landlock does not protect a file's
# metadata, and a deleted file in a socket's queue could not be counted.
SHARED = _numbers(
    """
truncate 76 45, chmod 90 -, fchmod 91 52, fchmodat 268 53, chown 92 -, fchown 93 55, lchown 94 -,
fchownat 260 54, utime 132 -, utimes 235 -, futimesat 261 -, utimensat 280 88, sendmsg 46 211,
sendmmsg 307 269
"""
)
# Signals outside the own group, where neither a namespace, nor a user id, nor Landlock stops them.
SIGNALS = _numbers(
    """
tkill 200 130, tgkill 234 131, rt_sigqueueinfo 129 138, rt_tgsigqueueinfo 297 240
"""
)
# Answered as by a file system without extended attributes, which `cp` and `shutil` accept. No
# layer hides the attributes of the files that it shows.
ATTRIBUTES = _numbers(
    """
setxattr 188 5, lsetxattr 189 6, fsetxattr 190 7, getxattr 191 8, lgetxattr 192 9, fgetxattr 193 10,
listxattr 194 11, llistxattr 195 12, flistxattr 196 13, removexattr 197 14, lremovexattr 198 15,
fremovexattr 199 16
"""
)
# Copying without a copy: a pipe or a socket would hold whole large pages for a byte each. On
# EINVAL, every runtime copies by itself.
SPLICES = _numbers("sendfile 40 71, splice 275 76, tee 276 77, vmsplice 278 75")
# These do nothing and report success. If sched_setscheduler fails, Mono writes to standard output.
# The other two would write out what the whole machine has in memory.
NOTHING = _numbers("sched_setscheduler 144 119, sync 162 81, syncfs 306 267")
