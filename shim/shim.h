// The shim's state: connections to daemons, and the processes that it minds. All static, nothing is allocated.
#pragma once

#include "log.h"
#include "runtime/wire.h"
#include "steps.h"

namespace shim {

namespace wire = dhow::runtime::wire;

constexpr int kMaxConnections = 8;

// What only containers have.
struct Container {
  bool used = false;
  Log log;
  char oomFile[512];
  char killFile[512];
  uint64_t oomKills;  // before it started
};

struct Process {
  enum State { kFree, kStarting, kRunning, kExited } state = kFree;
  Container* container = nullptr;  // none: an exec
  uint32_t flags;                  // wire::PlanFlags
  char id[wire::kMaxId + 1];
  int pid, pidfd;
  int sync;  // to the child until it has become the program
  bool ready;
  long error;  // of the plan
  uint32_t failedStep;
  int connection;         // who asked
  wire::Message request;  // kept until it is answered
  int input;              // write end of stdin
  int output[2];          // read ends; a terminal's master is output[0]
  bool stalled[2];        // not read now: a client is slow
  int master;
  int mountNs;  // held until the exit is told: taking mounts down takes milliseconds
  struct Client {
    int fd[2] = {-1, -1};
  } clients[wire::kMaxAttach];
  int64_t startedNanos, exitedNanos;
  int status;
  uint32_t oom;
};

struct State {
  int epoll = -1, listener = -1, signals = -1;
  int connections[kMaxConnections];
  int ownPidNs = -1, userNs = -1;
  int sandboxInit = -1, sandboxInitPid = 0;  // pidfd and pid of the shared pid namespace's init
  const wire::Plan* plan = nullptr;          // the sandbox's; stays mapped
  bool shuttingDown = false;
  int shutdownConnection = -1;
  wire::Message shutdownRequest;
};
extern State state;
extern Process processes[wire::kMaxProcesses];

enum Watched : uint32_t { kListener, kConnection, kSignals, kSync, kOutput, kClient };
void watch(int fd, uint32_t events, Watched kind, uint32_t index, uint32_t sub = 0, bool change = false);
void unwatch(int fd);

const char* text(const wire::Plan* plan, uint32_t offset);
const wire::Plan* mapPlan(int fd);  // nullptr when it is not one
void unmapPlan(const wire::Plan* plan);

// messages.cc
void reply(int connection, const wire::Message& request, long error, const int* fds = nullptr, int count = 0);
void send(int connection, const wire::Message& message, const int* fds = nullptr, int count = 0);
void broadcast(const wire::Message& message);
void handle(int connection, const wire::Message& request, const int* fds, int count);
wire::Message describe(const Process& process, wire::Type type);

// process.cc
void startProcess(int connection, const wire::Message& request, const int* fds, int count);
void syncReadable(Process& process);
void reap();
void release(Process& process);
void killGroup(const Container& container);
Process* find(const char* id);
void finishShutdown();
bool mountNsHeld();  // by a process that has ended
void dropMountNs();  // of all that have ended

// streams.cc
void pump(Process& process, int which, bool all);
void closeClient(Process& process, int client, int which);
void clientReady(Process& process, int client, int which, uint32_t events);
long addClient(Process& process, uint32_t bits, const int* fds, int* used);
void closeOutput(Process& process, int which);

}  // namespace shim
