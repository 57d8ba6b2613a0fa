"""The reading of compiled programs: small texts whose answers are counted by hand."""

import pytest

from jaxforget.tpu.hlo import array_bytes, collective_bytes, executed, largest_buffers, parse, unknown_loops

PROGRAM = parse(
    """\
HloModule jit_step, is_scheduled=true

%fused.1 (p.0: bf16[64,16]) -> (bf16[64,16], bf16[512,16]) {
  %p.0 = bf16[64,16]{1,0:T(8,128)(2,1)} parameter(0)
  %all-gather.1 = bf16[512,16]{1,0} all-gather(%p.0), channel_id=5, replica_groups=[1,8]<=[8], dimensions={0}
  ROOT %custom-call.1 = (bf16[64,16]{1,0}, bf16[512,16]{1,0}) custom-call(%all-gather.1), \
custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.2 (p.1: bf16[64,16]) -> bf16[512,16] {
  %p.1 = bf16[64,16]{1,0} parameter(0)
  ROOT %all-gather.2 = bf16[512,16]{1,0} all-gather(%p.1), channel_id=5, replica_groups=[1,8]<=[8], dimensions={0}
}

%fused.3 (p.2: bf16[64,16]) -> bf16[512,16] {
  %p.2 = bf16[64,16]{1,0} parameter(0)
  %all-gather.3 = bf16[512,16]{1,0} all-gather(%p.2), channel_id=5, replica_groups=[1,8]<=[8], dimensions={0}
  ROOT %custom-call.3 = bf16[512,16]{1,0} custom-call(%all-gather.3), custom_call_target="AsyncCollectiveDone"
}

%all-reduce-scatter.4 (p.3: f32[512,16]) -> f32[64,16] {
  %p.3 = f32[512,16]{1,0} parameter(0)
  %all-reduce.4 = f32[512,16]{1,0} all-reduce(%p.3), channel_id=6, replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  ROOT %dynamic-slice.4 = f32[64,16]{1,0} dynamic-slice(%all-reduce.4, %p.3), dynamic_slice_sizes={64,16}
}

%cond.1 (p.4: (s32[], bf16[64,16])) -> pred[] {
  %twelve = s32[]{:T(128)} constant(12)
  %p.4 = (s32[]{:T(128)}, bf16[64,16]{1,0}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.4), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%i.1, %twelve), direction=LT
}

%body.1 (p.5: (s32[], bf16[64,16])) -> (s32[], bf16[64,16]) {
  %p.5 = (s32[], bf16[64,16]{1,0}) parameter(0)
  %w.1 = bf16[64,16]{1,0} get-tuple-element(%p.5), index=1
  %start.1 = (bf16[64,16]{1,0}, bf16[512,16]{1,0}) fusion(%w.1), kind=kCustom, calls=%fused.1
  %middle.1 = bf16[512,16]{1,0} fusion(%w.1), kind=kOutput, calls=%async_collective_fusion.2
  %done.1 = bf16[512,16]{1,0} fusion(%w.1), kind=kCustom, calls=%fused.3
  %i.5 = s32[] get-tuple-element(%p.5), index=0
  %one.5 = s32[] constant(1)
  %next.5 = s32[] add(%i.5, %one.5)
  %after.5 = s32[]{:T(128)} add(%one.5, %next.5)
  ROOT %tuple.1 = (s32[], bf16[64,16]{1,0}) tuple(%after.5, %w.1)
}

%cond.2 (p.6: (s32[], s32[], f32[4,32])) -> pred[] {
  %p.6 = (s32[], s32[], f32[4,32]{1,0}) parameter(0)
  %i.2 = s32[] get-tuple-element(%p.6), index=0
  %n.2 = s32[] get-tuple-element(%p.6), index=1
  ROOT %lt.2 = pred[] compare(%i.2, %n.2), direction=LT
}

%body.2 (p.7: (s32[], s32[], f32[4,32])) -> (s32[], s32[], f32[4,32]) {
  %p.7 = (s32[], s32[], f32[4,32]{1,0}) parameter(0)
  %x.2 = f32[4,32]{1,0} get-tuple-element(%p.7), index=2
  %permute.2 = (f32[4,32]{1,0}, f32[4,32]{1,0}, u32[], u32[]) collective-permute-start(%x.2), channel_id=7, \
source_target_pairs={{0,1},{1,0}}
  %permuted.2 = f32[4,32]{1,0} collective-permute-done(%permute.2)
  ROOT %tuple.2 = (s32[], s32[], f32[4,32]{1,0}) tuple(%p.7, %x.2)
}

ENTRY %main.1 (a: bf16[64,16], g: f32[512,16], x: f32[4,32]) -> f32[] {
  %a = bf16[64,16]{1,0} parameter(0)
  %g = f32[512,16]{1,0} parameter(1)
  %x = f32[4,32]{1,0} parameter(2)
  %first = s32[]{:T(128)} constant(1)
  %start = (s32[], bf16[64,16]{1,0}) tuple(%first, %a)
  %while.1 = (s32[], bf16[64,16]{1,0}) while(%start), condition=%cond.1, body=%body.1
  %while.2 = (s32[], s32[], f32[4,32]{1,0}) while(%x), condition=%cond.2, body=%body.2
  %scatter.1 = f32[64,16]{1,0} fusion(%g), kind=kCustom, calls=%all-reduce-scatter.4
  %logits.1 = f32[100,1000]{1,0:T(8,128)} multiply(%g, %g), metadata={op_name="jit(step)/while/body/tiles/dot"}
  %vector.1 = f32[9999,9999]{1,0:T(8,128)S(1)} multiply(%g, %g)
  ROOT %norm.1 = f32[]{:T(128)} all-reduce(%x), channel_id=8, \
replica_groups=mesh['data'=2,'fsdp'=4] {'fsdp'}, to_apply=%add
}
"""
)


def test_bodies_run_as_often_as_their_loops_turn():
    """Unrolled once, the first loop's counter goes 1, 3, ... 11; the second's end is data."""
    assert dict(executed(PROGRAM, unknown_trips=5)) == {"main.1": 1, "body.1": 6, "body.2": 5}
    assert unknown_loops(PROGRAM) == 1


def test_collectives_count_once_each_turn_whatever_they_are_split_into():
    gathered = 512 * 16 * 2 * 7 // 8  # seven eighths of the whole come from others
    assert collective_bytes(PROGRAM, devices=8, unknown_trips=5) == {
        "all-gather": 6 * gathered,
        "all-reduce": 2 * (4 * 32 * 4) * 3 // 4,  # groups of four: twice three quarters
        "reduce-scatter": 512 * 16 * 4 * 7 // 8,
        "collective-permute": 5 * 4 * 32 * 4,
    }


def test_a_kernels_attributes_end_no_computation():
    """They have lines of their own, which begin with a brace as the end of a computation does."""
    program = parse(
        """\
%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}, execution_thread="main"

ENTRY %main.1 (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %kernel.1 = f32[8]{0} custom-call(%x), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
  "xprof_metadata": "{}"
}}, metadata={op_name="jit(step)/splash"}, backend_config={"custom_call_config":{"body":"TUzv"}}
  ROOT %all.1 = f32[8]{0} all-reduce(%kernel.1), channel_id=1, replica_groups={{0,1}}, to_apply=%add
}
"""
    )
    assert [len(body) for body in program.computations.values()] == [1, 3]
    kernel = program.computations["main.1"][1]
    assert kernel.operands == ["x"]
    assert 'op_name="jit(step)/splash"' in kernel.rest
    assert collective_bytes(program, devices=2) == {"all-reduce": 2 * 32 // 2}


def test_large_results_are_those_in_hbm_that_an_instruction_writes():
    largest = largest_buffers(PROGRAM, 2)
    assert [(buffer.shape, buffer.bytes) for buffer in largest] == [("f32[100,1000]", 400_000), ("bf16[512,16]", 16384)]
    assert largest[0].operation == "jit(step)/tiles/dot"


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("f32[2,3]{1,0:T(8,128)}", 24),
        ("(bf16[4]{0}, s32[], /*index=5*/pred[3])", 15),
        ("s4[3]", 2),
        ("f8e4m3fn[10]", 10),
        ("token[]", 0),
        ("f32[<=8,2]", 64),
    ],
)
def test_sizes_of_shapes(shape, size):
    assert array_bytes(shape) == size


def test_what_sparse_cores_send_counts_once():
    """It stands in what an asynchronous call's custom call calls; update and end of that call repeat nothing."""
    program = parse(
        """\
%called.1 (p.0: bf16[512,16]) -> bf16[64,16] {
  %p.0 = bf16[512,16]{1,0} parameter(0)
  ROOT %reduce-scatter.1 = bf16[64,16]{1,0} reduce-scatter(%p.0), replica_groups=mesh['a'=8] {'a'}, to_apply=%add
}, execution_thread="sparsecore"

%async_computation.1 (p.1: bf16[512,16]) -> bf16[64,16] {
  %p.1 = bf16[512,16]{1,0} parameter(0)
  ROOT %custom-call.1 = bf16[64,16]{1,0} custom-call(%p.1), custom_call_target="X", called_computations={%called.1}
}, execution_thread="sparsecore"

ENTRY %main.1 (p.2: bf16[512,16]) -> bf16[64,16] {
  %p.2 = bf16[512,16]{1,0} parameter(0)
  %start.1 = ((), (), (s32[8]{0})) async-start(), async_execution_thread="sparsecore", calls=%async_computation.1
  %update.1 = ((bf16[512,16]{1,0}), bf16[64,16]{1,0}, (s32[8]{0})) async-update(%start.1, %p.2)
  ROOT %done.1 = bf16[64,16]{1,0} async-done(%update.1)
}
"""
    )
    assert collective_bytes(program, 8) == {"reduce-scatter": 512 * 16 * 2 * 7 // 8}
