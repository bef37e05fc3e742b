// Copyright The felhom-agent authors
// SPDX-License-Identifier: Apache-2.0

package pluginhost

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// drainTime is how long the output of a dead process is still read: what it
// wrote last is there at once, and a process it left behind may hold the pipe
// for ever.
const drainTime = 200 * time.Millisecond

// maxLine bounds one line of a plugin's output, in bytes.
const maxLine = 16 << 10

// child is one plugin process. It implements go-plugin's runner.Runner, but
// shows go-plugin only the handshake line: the rest of the output is read
// here, within bounds.
type child struct {
	spawn *spawner
	// output takes each line of standard error, and of standard output after
	// the first.
	output func(stream, line string)

	cmd       *exec.Cmd
	handshake func(line string) error // judges the first line of standard output
	hold      func(pid int) error     // limits it, just after its start

	stdout, stderr *os.File // read ends
	first          *io.PipeReader
	firstW         *io.PipeWriter
	exited         chan struct{} // closed when it is gone and its output was read

	mu      sync.Mutex // guards what follows
	process int        // pid; 0 before the start
	killed  bool
	reaped  bool
	err     error // how it ended
	blamed  error // why it was killed
	said    error // what handshake said
}

func newChild(spawn *spawner, output func(stream, line string)) *child {
	c := &child{spawn: spawn, output: output, exited: make(chan struct{}), hold: ceilings{}.hold}
	c.first, c.firstW = io.Pipe()
	return c
}

// prepare gives cmd an empty input, a process group of its own, and death with
// its parent thread.
func (c *child) prepare(cmd *exec.Cmd, handshake func(line string) error) {
	cmd.Stdin = nil // /dev/null
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	c.cmd, c.handshake = cmd, handshake
}

// Start implements runner.Runner. It starts the goroutines that Wait waits for.
func (c *child) Start(ctx context.Context) error {
	var w [2]*os.File
	var err error
	if c.stdout, w[0], err = os.Pipe(); err != nil {
		return err
	}
	if c.stderr, w[1], err = os.Pipe(); err != nil {
		return errors.Join(err, c.stdout.Close(), w[0].Close())
	}
	c.cmd.Stdout, c.cmd.Stderr = w[0], w[1]
	err = c.spawn.do(ctx, c.cmd.Start)
	err = errors.Join(err, w[0].Close(), w[1].Close())
	if err != nil {
		return errors.Join(err, c.stdout.Close(), c.stderr.Close())
	}
	c.started()
	held := c.hold(c.pid())
	var readers sync.WaitGroup
	readers.Go(c.readStdout)
	readers.Go(func() { c.readLines(bufio.NewReaderSize(c.stderr, maxLine), "stderr") })
	go c.await(&readers) // Wait waits for exited, which this closes
	return held          // a process without its limits is killed by the caller
}

// started notes the pid, and kills at once what was killed before that.
func (c *child) started() {
	c.mu.Lock()
	c.process = c.cmd.Process.Pid
	killed := c.killed
	c.mu.Unlock()
	if killed {
		_ = c.Kill(context.Background())
	}
}

func (c *child) pid() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.process
}

// await waits for the process and then for its readers.
func (c *child) await(readers *sync.WaitGroup) {
	defer close(c.exited)
	pid := c.pid()
	// Waiting without reaping first keeps the number of the process group ours
	// while what is left of the group is killed.
	for errors.Is(unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil), unix.EINTR) {
	}
	c.mu.Lock()
	_ = unix.Kill(-pid, unix.SIGKILL) // ESRCH: nothing is left
	err := c.cmd.Wait()
	c.reaped = true
	c.err = err
	c.mu.Unlock()

	timer := time.AfterFunc(drainTime, c.closePipes)
	readers.Wait()
	timer.Stop()
	c.closePipes()
}

func (c *child) closePipes() {
	_ = c.stdout.Close()
	_ = c.stderr.Close()
	_ = c.firstW.Close()
}

// readStdout hands the first line to go-plugin, if it is a handshake that we
// take, and treats the others as output.
func (c *child) readStdout() {
	r := bufio.NewReaderSize(c.stdout, maxLine)
	line, ok := readLine(r)
	if !ok {
		_ = c.firstW.Close()
		return
	}
	err := c.handshake(line)
	c.mu.Lock()
	c.said = err
	c.mu.Unlock()
	if err == nil {
		_, _ = io.WriteString(c.firstW, line+"\n") // fails only when go-plugin has given up
	}
	_ = c.firstW.Close()
	c.readLines(r, "stdout")
}

func (c *child) readLines(r *bufio.Reader, stream string) {
	for {
		line, ok := readLine(r)
		if !ok {
			return
		}
		c.output(stream, line)
	}
}

// readLine reads one line. What is beyond maxLine comes as further lines.
func readLine(r *bufio.Reader) (string, bool) {
	b, _, err := r.ReadLine()
	if err != nil {
		return "", false
	}
	return string(b), true
}

// Wait implements runner.Runner.
func (c *child) Wait(context.Context) error {
	<-c.exited
	return c.why()
}

// why is how the process ended.
func (c *child) why() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.err
	if err == nil {
		err = errors.New("exit status 0")
	}
	if c.blamed != nil {
		return fmt.Errorf("%w: %w", c.blamed, err)
	}
	return err
}

// blame notes why it is about to be killed.
func (c *child) blame(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.blamed = why
}

// refusal is what was wrong with the handshake line.
func (c *child) refusal() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.said
}

// Kill implements runner.Runner. It kills the process and its group, at once
// and without waiting; before the start it sees to it that there is none.
func (c *child) Kill(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.killed = true
	if c.process == 0 || c.reaped {
		return nil
	}
	if err := unix.Kill(-c.process, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill the process group: %w", err)
	}
	return nil
}

// destroy kills it and waits, but not for ever: a process that sleeps in the
// kernel cannot be killed.
func (c *child) destroy(patience time.Duration) error {
	err := c.Kill(context.Background())
	if c.pid() == 0 {
		return err
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-c.exited:
		return err
	case <-timer.C:
		return errors.Join(err, fmt.Errorf("process %d was killed and does not end", c.pid()))
	}
}

// Stdout implements runner.Runner: the handshake line and no more.
func (c *child) Stdout() io.ReadCloser { return c.first }

// Stderr implements runner.Runner: nothing. go-plugin's own reader takes the
// fields of a JSON line to be strings and panics when they are not.
func (c *child) Stderr() io.ReadCloser { return io.NopCloser(eof{}) }

type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }

// Name implements runner.Runner.
func (c *child) Name() string { return c.cmd.Args[0] }

// ID implements runner.Runner: the pid.
func (c *child) ID() string {
	if c.pid() == 0 {
		return ""
	}
	return strconv.Itoa(c.pid())
}

// Diagnose implements runner.Runner.
func (c *child) Diagnose(context.Context) string { return "" }

// PluginToHost implements runner.Runner.
func (c *child) PluginToHost(network, addr string) (string, string, error) { return network, addr, nil }

// HostToPlugin implements runner.Runner.
func (c *child) HostToPlugin(network, addr string) (string, string, error) {
	return network, addr, nil
}

// spawner starts processes from one thread that outlives them: the kernel
// delivers a child's parent-death signal when the thread that started it ends,
// not when the process does.
type spawner struct{ jobs chan func() }

// background starts the thread that starts processes; stop ends it.
func (s *spawner) background() (stop func()) {
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() { s.run(done) })
	return func() {
		close(done)
		wg.Wait()
	}
}

// run serves do until done is closed.
func (s *spawner) run(done <-chan struct{}) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for {
		select {
		case f := <-s.jobs:
			f()
		case <-done:
			return
		}
	}
}

// do runs f on the spawner's thread.
func (s *spawner) do(ctx context.Context, f func() error) error {
	result := make(chan error, 1)
	select {
	case s.jobs <- func() { result <- f() }:
		return <-result
	case <-ctx.Done():
		return ctx.Err()
	}
}
