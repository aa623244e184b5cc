package interop_test

import (
	"time"

	orcadata "github.com/cncf/xds/go/xds/data/orca/v3"
	orcaservice "github.com/cncf/xds/go/xds/service/orca/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/orca"
)

// reports is the service of load reports that the case orca_oob needs. grpc-go's own sends no more
// than two reports a minute, unless a package of its own says otherwise.
type reports struct {
	orcaservice.UnimplementedOpenRcaServiceServer
	recorder orca.ServerMetricsRecorder
}

func (r reports) StreamCoreMetrics(_ *orcaservice.OrcaLoadReportRequest, s grpc.ServerStreamingServer[orcadata.OrcaLoadReport]) error {
	for {
		m := r.recorder.ServerMetrics()
		report := &orcadata.OrcaLoadReport{CpuUtilization: m.CPUUtilization, MemUtilization: m.MemUtilization, Utilization: m.Utilization}
		if err := s.Send(report); err != nil {
			return err
		}
		select {
		case <-s.Context().Done():
			return s.Context().Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}
